"""What the guest does without a stop, and leaves in the ring as records.

``sites`` that are compiled lie in a ``window``, with their ``block``, its ``rows`` and ``stops``,
and the ``pace`` of their counter. A ``monitor`` is what a guest runs inside whose inputs are
recorded, its ``secondary`` vCPUs from their own entry on; somebody is asked about inputs by
``input_bell``. A ``lookout`` finds in the rows what code waits for that reads again and again.
"""
