"""Loops that wait for a device, as GCC 12 compiles them (-O2 -mcmodel=kernel).

The source::

    int reg_read32(struct ctrl *c, u32 off, u32 *val)
    { *val = *(volatile u32 *)(c->bar + off); return 0; }

    int wait_ready(struct ctrl *ctrl, u32 timeout_j, int enabled)
    {
        u64 timeout = jiffies + timeout_j; u32 csts, bit = enabled ? 1 : 0; int ret;
        while ((ret = ctrl->ops->read32(ctrl, 0x1c, &csts)) == 0) {
            if (csts == ~0u) return -19;
            if ((csts & 1) == bit) break;
            usleep_range_state(1000, 2000, 2);
            if (pending()) return -4;
            if ((long)(timeout - jiffies) < 0) return -19;
        }
        return ret;
    }

    int spin(volatile u32 *r)
    { int n = 1000; while (!(*r & 0x20)) { if (!--n) return -1; pause(); } return 0; }

    int both(volatile u32 *r) { while ((*r & 0x30) != 0x10) if (pending()) return 1; return 0; }

    static int busy(volatile u32 *r) { return *r & 0x80 ? 1 : 0; }

    int caller(volatile u32 *r)
    {
        for (int i = 0; i < 500; i++) {
            if (!busy(r)) return 0;
            usleep_range_state(1, 2, 2);
        }
        return -110;
    }

    u32 fifo(volatile u32 *r, u32 *out, int n)
    { for (int i = 0; i < n; i++) out[i] = *r; return 0; }
"""

from __future__ import annotations

from tracer.x86.state import GPR

BASE = 0x40_0000
DEVICE = 0xDEAD_0000
STACK = 0x7000

SYMBOLS = {
    "busy": 0x400000,
    "reg_read32": 0x400010,
    "wait_ready": 0x400020,
    "spin": 0x4000D0,
    "both": 0x400100,
    "caller": 0x400140,
    "fifo": 0x400190,
}

CODE = bytes.fromhex("""
    8b07c1e80783e001c30f1f800000000089f6480377088b06890231c0c30f1f00415489f64531e455534889fb
    4883ec10488b05c9ffbfff85d2410f95c4488d2c06eb3f0f1f4400008b54240c83faff745783e2014439e274
    3fba02000000bed0070000bfe8030000e893ffbfffe88effbfff85c0754a488b0583ffbfff4839c57826488b
    03488d54240cbe1c0000004889dfff1085c074b04883c4105b5d415cc30f1f80000000004883c410b8edffff
    ff5b5d415cc3662e0f1f8400000000004883c410b8fcffffff5b5d415cc366908b17b8e703000083e2207409
    eb10669083e801740cf3908b1783e22074f231c0c3b8ffffffffc3660f1f840000000000534889fbeb13662e
    0f1f840000000000e8ebfebfff85c075178b0383e03083f81075ed31c05bc3660f1f840000000000b8010000
    005bc3660f1f840000000000554889fd53bbf40100004883ec08eb19ba02000000be02000000bf01000000e8
    9cfebfff83eb0174134889efe88ffeffff85c075db4883c4085b5dc34883c408b892ffffff5b5dc30f1f8400
    0000000085d27e1a4863d2488d14960f1f4400008b074883c6048946fc4839d675f231c0c3
""")


def name(linear: int) -> str | None:
    """Name a linear address as kallsyms does."""
    if not BASE <= linear < BASE + len(CODE):
        return None
    start, found = max((at, name) for name, at in SYMBOLS.items() if at <= linear)
    return f"{found}+{linear - start:#x}"


class Ram:
    """Have the code at BASE, and a stack of quadwords at STACK."""

    def __init__(self, *stack: int) -> None:
        self._stack = b"".join(value.to_bytes(8, "little") for value in stack) + bytes(64)

    def __call__(self, linear: int, size: int) -> bytes:
        for start, data in ((BASE, CODE), (STACK, self._stack)):
            if start <= linear < start + len(data):
                return data[linear - start : linear - start + size]
        return b""


def registers(**known: int) -> list[int]:
    """Return the general-purpose registers in their order; RSP is at STACK."""
    return [({"rsp": STACK} | known).get(name, 0) for name in GPR]
