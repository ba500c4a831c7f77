"""What a guest of TDX or SEV-ES would make of an access: hypercalls, handlers, the audit."""

__all__ = ("audit", "handler", "hypercall")
