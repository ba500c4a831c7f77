"""Queues of devices: a ``doorbell`` is rung for entries of a ring, or for the chains of a
``virtqueue``, which may be ``packed``. ``registers`` say where queues are; what was read of one is
``told``.
"""
