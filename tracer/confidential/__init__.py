"""An access in a guest of TDX or SEV-ES: its hypercall, its handler, the audit."""

__all__ = (
    "audit",
    "handler",
    "hypercall",
    "request",
    "sev_host",
    "tdx_host",
    "tdx_module",
    "tdx_state",
)
