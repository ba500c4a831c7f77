"""A guest of TDX or SEV-ES: its machine, an access in it, the hypercall, the handler, the audit."""

__all__ = (
    "announcement",
    "audit",
    "handler",
    "hypercall",
    "kind",
    "request",
    "sev_host",
    "support",
    "tdx_host",
    "tdx_module",
    "tdx_state",
)
