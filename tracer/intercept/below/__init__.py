"""What is below a confidential guest: the TDX module and its host, the host of SEV-ES.

``firmware`` is the port for ``trust_domain`` and ``encrypted_guest``, ``guest_module`` the TDX
module as guest code. A fault is ``waiting`` for the call that ``inquiry`` matches with it, as was
decided in ``granting``; ``protocol_bell`` is for what is asked by an MSR alone. A ``bench`` tries
instructions on the guest's own handler, by ``ve_trial`` and ``vc_trial``.
"""
