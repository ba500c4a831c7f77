"""A guest of TDX or SEV-ES: its machine, an access in it, the hypercall, the handler, the audit."""

__all__ = (
    "agreement",
    "announcement",
    "audit",
    "expectation",
    "findings",
    "handler",
    "hypercall",
    "kind",
    "request",
    "sev_host",
    "sev_state",
    "support",
    "tdx_host",
    "tdx_module",
    "tdx_state",
    "trial",
)
