"""Read machine code: registers, spills, shared memory and what the innermost matrix loop is made of."""

import math
import re
import subprocess
import tempfile
from collections import Counter

import triton

INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Zx0-9_.]*)(.*?);", re.M)
KINDS = {
    "HGMMA": r"[HQI]GMMA",  # wgmma
    "HMMA": r"[HQI]MMA",  # mma.sync
    "LDG": r"LDG",
    "LDGSTS": r"LDGSTS",  # cp.async
    "UTMALDG": r"UTMALDG",  # TMA
    "LDSM": r"LDSM",
    "LDS": r"LDS\b",
    "STS": r"STS\b",
    "BAR": r"BAR",
    "NOP": r"NOP",  # how ptxas spaces mma.sync on sm_120; no work
}
LAYOUT = re.compile(r"STRIDE|PARTS|PER_TILE|TILES")  # follow from tile and block
SERIALISED = re.compile(r"C7515|C7512|wgmma.*serializ", re.I)


def describe(compiled, log: str) -> dict:
    """Return one row of the census: of a compiled kernel and what ptxas said while compiling it."""
    row = {"kernel": compiled.metadata.name, "config": config(compiled), "shared": compiled.metadata.shared}
    if "amdgcn" in compiled.asm:
        return row | describe_amd(compiled.asm["amdgcn"])
    return row | describe_nvidia(compiled.asm["cubin"], log, compiled.metadata.num_warps)


def config(compiled) -> str:
    """Return compile-time arguments by their upper-case names, then warps and stages."""
    names = compiled.src.fn.arg_names
    constants = {names[path[0]]: value for path, value in compiled.src.constants.items()}
    shown = [f"{name}={value}" for name, value in constants.items() if name.isupper() and not LAYOUT.match(name)]
    return " ".join([*shown, f"w{compiled.metadata.num_warps}", f"s{compiled.metadata.num_stages}"])


def describe_nvidia(cubin: bytes, log: str, warps: int) -> dict:
    """Return what ptxas reports and what the matrix loop is made of."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", log)]
    if not registers or not spills:
        raise ValueError(f"ptxas must report registers and spills, got {log[:200]!r}")
    code = parse(disassemble(cubin))
    return {
        "registers": int(registers[1]),
        "spill": sum(spills),
        "spill_in_loop": sum(code[i][1].startswith(("LDL", "STL")) for body in inner_loops(code) for i in body),
        "serialised": bool(SERIALISED.search(log)),
        **describe_loop(matrix_loop(code)),
    }


def describe_loop(main: list[tuple[str, str]]) -> dict:
    """Return the instructions of the matrix loop, by kind and per step of the product."""
    kinds = Counter(kind for op, _ in main for kind, pattern in KINDS.items() if re.match(pattern + r"(\.|\b)", op))
    macs = sum(macs_per_warp(op) for op, _ in main)
    # ptxas unrolls: what each step does once, wait for its copies, and its products both come that many times
    waits = sum(op.startswith("DEPBAR") for op, _ in main)
    steps = math.gcd(waits, kinds["HGMMA"] + kinds["HMMA"]) if waits else 1
    wide = sum(op.startswith("LDG") and ".128" in op for op, _ in main) + kinds["UTMALDG"]
    loop = len(main) - kinds["NOP"]
    return {
        "steps": steps,
        "loop": -(-loop // steps),
        "tensor_core": (kinds["HGMMA"] + kinds["HMMA"]) // steps,
        "instruction": next((op for op, _ in main if macs_per_warp(op)), ""),
        "wide_loads": wide // steps,
        "narrow_loads": (kinds["LDG"] + kinds["LDGSTS"] + kinds["UTMALDG"] - wide) // steps,
        "asynchronous": (kinds["LDGSTS"] + kinds["UTMALDG"]) // steps,
        "per_kilomac": round(1000 * loop / macs, 3) if macs else None,
        "histogram": " ".join(f"{kind}={n}" for kind, n in kinds.items()),
    }


def disassemble(cubin: bytes) -> str:
    """Return the machine code as text."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def parse(text: str) -> list[tuple[int, str, str]]:
    """Return (address, opcode, operands, its predicate among them) of every instruction."""
    return [(int(address, 16), op, when + rest) for address, when, op, rest in INSTRUCTION.findall(text)]


def matrix_loop(code: list[tuple[int, str, str]]) -> list[tuple[str, str]]:
    """Return the innermost loop with the most tensor-core instructions (no remainder's); empty when none has one."""
    matrix = {i for i, (_, op, _) in enumerate(code) if macs_per_warp(op)}
    return max(([code[i][1:] for i in sorted(body)] for body in inner_loops(code, matrix)), key=_main, default=[])


def inner_loops(code: list[tuple[int, str, str]], having: set[int] | None = None) -> list[set[int]]:
    """Return the loops without a loop inside, as instructions; of those that have one of ``having``."""
    before = predecessors(code)
    edges = [(start, end) for start, ends in enumerate(before) for end in ends if start < end]
    loops = [body for edge in edges if (body := loop_of(*edge, before)) and (having is None or having & body)]
    return [body for body in loops if not any(other < body for other in loops)]


def predecessors(code: list[tuple[int, str, str]]) -> list[list[int]]:
    """Return the instructions that may run just before each."""
    places = {address: i for i, (address, _, _) in enumerate(code)}
    before: list[list[int]] = [[] for _ in code]
    for i, (_, op, rest) in enumerate(code):
        target = places.get(jump(rest)) if op.startswith("BRA") else None
        if target is not None:
            before[target].append(i)
        always = op.startswith(("BRA", "BRX", "EXIT", "RET")) and not re.search(r"\bU?P\d|[A-Z]+:", rest)
        if not always and i + 1 < len(code):
            before[i + 1].append(i)
    return before


def loop_of(start: int, end: int, before: list[list[int]]) -> set[int]:
    """Return the loop that the branch at ``end`` back to ``start`` closes: all from where ``end`` is reached without
    passing ``start``.

    Nothing if it is entered elsewhere too: then the branch only comes back from code that was moved out of the way.
    Such code, the retry of a wait, is no part of the loop either: it runs when there is nothing to do.
    """
    body = {start, end}
    rest = [end]
    while rest:
        ahead = before[rest.pop()]
        if not ahead:
            return set()
        rest += (new := set(ahead) - body)
        body |= new
    return {i for i in body if start <= i <= end}


def _main(body: list[tuple[str, str]]) -> tuple[int, int, int]:
    """Return a key: most work, then most asynchronous loads (a remainder has none), then fewest instructions."""
    asynchronous = sum(op.startswith(("LDGSTS", "UTMALDG")) for op, _ in body)
    return sum(macs_per_warp(op) > 0 for op, _ in body), asynchronous, -len(body)


def jump(operands: str) -> int | None:
    """Return the address a branch goes to; None without one."""
    found = re.search(r"0x([0-9a-f]+)", operands)
    return int(found[1], 16) if found else None


def macs_per_warp(op: str) -> float:
    """Return the multiply-adds that a warp does in one instruction: HMMA.16816.F32, HGMMA.64x128x16.F32, ..."""
    wgmma = re.match(r"[HQI]GMMA\.(?:SP\.)?(\d+)x(\d+)x(\d+)", op)
    if wgmma:
        return int(wgmma[1]) * int(wgmma[2]) * int(wgmma[3]) / 4  # four warps issue one
    mma = re.match(r"[HQI]MMA\.(?:SP\.)?(16)(8)(4|8|16|32|64)\b", op)
    return float(int(mma[1]) * int(mma[2]) * int(mma[3])) if mma else 0.0


def describe_amd(text: str) -> dict:
    """Return registers, spills and instructions; AMD has no count of the loop."""

    def number(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text)[1])

    loads = re.findall(r"(?:global|buffer)_load_(\w+)", text)
    matrix = re.findall(r"v_mfma_\w+", text)
    return {
        "registers": number("vgpr_count"),
        "spill": number("vgpr_spill_count") + number("sgpr_spill_count"),
        "serialised": False,
        "tensor_core": len(matrix),
        "instruction": matrix[0] if matrix else "",
        "wide_loads": sum("dwordx4" in load for load in loads),
        "narrow_loads": sum("dwordx4" not in load for load in loads),
    }
