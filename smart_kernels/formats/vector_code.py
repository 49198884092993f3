"""Vector instructions for a block row times a few rows of x, as LLVM's intermediate language (optional: llvmlite).

                  width: 1 or 2 vectors of outputs
    w   | w[k, 0:16]     | w[k, 16:32]     |     loaded once per k, from values that are stored in this order
    x0  | acc += x0[k]*w | acc += x0[k]*w  |
    x1  | acc += x1[k]*w | acc += x1[k]*w  |     up to 12 rows of x, one scalar of each spread over a vector
    ... |                |                 |

All accumulators stay in registers while the live blocks go by; what is dead is in no list. The row stride of x is a
constant of the code, so every scalar of x is an operand at a fixed offset. Written as vector types rather than loops:
what the compiler makes of it does not depend on what its vectoriser recognises.
"""

from contextlib import contextmanager
from typing import NamedTuple

CHAINS = 8  # independent sums that hide the latency of an addition behind two additions per cycle
UNROLL = 8
CALL = ("x", "bias", "y", "layout")  # addresses, the last one that of
LAYOUT = ("values", "starts", "offsets", "tiles", "bounds", "stride", "count", "parts")  # addresses, then numbers


class Spec(NamedTuple):
    """One piece of code.

    Attributes:
        rows: of x at a time.
        vectors, lanes: outputs at a time: vectors * lanes.
        block: columns of a stored block.
        stride: floats from one row of x to the next.
    """

    rows: int
    vectors: int
    lanes: int
    block: int
    stride: int


class Code:
    """Writes the code of a spec; ``shared``: with a share of it for each thread of OpenMP."""

    def __init__(self, spec: Spec, shared: bool):
        import llvmlite.ir as ir

        self.ir = ir
        self.spec = spec
        self.shared = shared
        self.module = ir.Module()
        self.int = ir.IntType(64)
        self.float = ir.FloatType()
        self.vector = ir.VectorType(self.float, spec.lanes)
        self.width = spec.vectors * spec.lanes
        self.unroll = next(u for u in (UNROLL, 4, 2, 1) if spec.block % u == 0)
        self.chains = min(self.unroll, -(-CHAINS // (spec.rows * spec.vectors)))
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fma = ir.Function(self.module, kind, f"llvm.fma.v{spec.lanes}f32")

    def text(self) -> str:
        some = self._some()
        for name in ("alone", "together"):
            kind = self.ir.FunctionType(self.ir.VoidType(), [self.int.as_pointer()])
            function = self.ir.Function(self.module, kind, name)
            self.b = self.ir.IRBuilder(function.append_basic_block())
            (call,) = function.args
            layout = self.b.inttoptr(self.b.load(self._at(call, len(CALL) - 1)), self.int.as_pointer())
            values = [self.b.load(self._at(call, i)) for i in range(len(CALL) - 1)]
            values += [self.b.load(self._at(layout, i)) for i in range(len(LAYOUT))]
            values = [
                self.b.inttoptr(value, argument.type) if isinstance(argument.type, self.ir.PointerType) else value
                for value, argument in zip(values, some.args, strict=False)
            ]
            self.b.call(some, [*values, *self._share(name == "together")])
            self.b.ret_void()
        return str(self.module)

    def _share(self, threaded: bool) -> list:
        """Return the first part and the step of the calling thread."""
        if not threaded or not self.shared:
            return [self._n(0), self._n(1)]
        kind = self.ir.FunctionType(self.ir.IntType(32), [])
        found = [self.ir.Function(self.module, kind, f"omp_get_{what}") for what in ("thread_num", "num_threads")]
        return [self.b.zext(self.b.call(function, []), self.int) for function in found]

    def _some(self):
        """Write a function of parts ``first``, ``first + step``, ...: of each its panels, times all tiles of x."""
        floats = self.float.as_pointer()
        ints = self.int.as_pointer()
        kinds = [floats] * 4 + [ints] * 4 + [self.int] * 5
        function = self.ir.Function(self.module, self.ir.FunctionType(self.ir.VoidType(), kinds), "some")
        function.linkage = "internal"
        for argument in function.args[:8]:
            argument.add_attribute("noalias")
        self.x, self.bias, self.y, self.values, self.starts, self.offsets, self.tiles, *rest = function.args
        bounds, self.stride, count, parts, first, step = rest
        self.b = self.ir.IRBuilder(function.append_basic_block())
        self.sums = [self.b.alloca(self.vector) for _ in range(self.chains * self.spec.rows * self.spec.vectors)]
        with self._loop(first, parts, step) as part:
            ends = [self.b.load(self._at(bounds, end)) for end in (part, self.b.add(part, self._n(1)))]
            with self._loop(*ends) as panel, self._loop(self._n(0), count) as tile:
                self._tile(panel, tile)
        self.b.ret_void()
        return function

    def _tile(self, panel, tile) -> None:
        b = self.b
        spec = self.spec
        zero = self.ir.Constant(self.vector, None)
        x, y = (b.load(self._at(self._at(self.tiles, b.mul(tile, self._n(2))), i)) for i in (0, 1))
        x = self._at(self.x, x)
        column = b.mul(panel, self._n(self.width))
        bias = [self._load(self._at(self.bias, column), v) for v in range(spec.vectors)]
        for i, total in enumerate(self.sums):
            b.store(bias[i % spec.vectors] if i < spec.rows * spec.vectors else zero, total)
        ends = (b.load(self._at(self._at(self.starts, panel), i)) for i in (0, 1))
        with self._loop(*ends) as block:
            self._block(self._at(x, b.load(self._at(self.offsets, block))), block)
        y = self._at(self._at(self.y, y), column)
        for row in range(spec.rows):
            for v in range(spec.vectors):
                total, *others = (b.load(s) for s in self.sums[row * spec.vectors + v :: spec.rows * spec.vectors])
                for other in others:
                    total = b.fadd(total, other)
                b.store(total, self._vector_at(self._at(y, b.mul(self._n(row), self.stride)), v), align=4)

    def _block(self, x, block) -> None:
        b = self.b
        spec = self.spec
        values = self._at(self.values, b.mul(block, self._n(spec.block * self.width)))
        with self._loop(self._n(0), self._n(spec.block), self._n(self.unroll)) as k:
            x = self._at(x, k)
            values = self._at(values, b.mul(k, self._n(self.width)))
            for u in range(self.unroll):
                weights = [self._load(self._at(values, u * self.width), v) for v in range(spec.vectors)]
                sums = iter(self.sums[(u % self.chains) * spec.rows * spec.vectors :])
                for row in range(spec.rows):
                    spread = self._spread(b.load(self._at(x, row * spec.stride + u)))
                    for weight, total in zip(weights, sums, strict=False):
                        b.store(b.call(self.fma, [weight, spread, b.load(total)]), total)

    @contextmanager
    def _loop(self, start, stop, step=None):
        """Run what is written inside for each value from ``start`` below ``stop``."""
        b = self.b
        head, body, done = (b.append_basic_block() for _ in range(3))
        entry = b.block
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(self.int)
        index.add_incoming(start, entry)
        b.cbranch(b.icmp_signed("<", index, stop), body, done)
        b.position_at_end(body)
        yield index
        index.add_incoming(b.add(index, step or self._n(1)), b.block)
        b.branch(head)
        b.position_at_end(done)

    def _n(self, value: int):
        return self.ir.Constant(self.int, value)

    def _at(self, pointer, index):
        return self.b.gep(pointer, [self._n(index) if isinstance(index, int) else index])

    def _vector_at(self, pointer, v: int):
        return self.b.bitcast(self._at(pointer, v * self.spec.lanes), self.vector.as_pointer())

    def _load(self, pointer, v: int):
        return self.b.load(self._vector_at(pointer, v), align=4)

    def _spread(self, scalar):
        nothing = self.ir.Constant(self.vector, self.ir.Undefined)
        first = self.b.insert_element(nothing, scalar, self.ir.Constant(self.ir.IntType(32), 0))
        lanes = self.ir.VectorType(self.ir.IntType(32), self.spec.lanes)
        return self.b.shuffle_vector(first, nothing, self.ir.Constant(lanes, None))
