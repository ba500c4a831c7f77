"""What a ``doorbell`` is about: entries of a ring, and the chains of a ``virtqueue``, which may be
``packed``.
"""
