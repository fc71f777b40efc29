//! Programs for the kernel's own machine (eBPF): written down instruction by instruction, and loaded.
//!
//! There is one such program, [`shortcut`], and it is short; so this is an assembler and no compiler. What it writes is said in
//! Documentation/bpf/standardization/instruction-set.rst, and judged by the kernel's verifier.

mod call;
mod gate;
mod load;
mod others;
pub mod shortcut;

pub use gate::Gate;
pub use load::{LoadError, Program, load};
pub use others::{Links, NetfilterLink, tcx_received};

/// An instruction, as the kernel reads it (`struct bpf_insn`).
pub type Instruction = [u8; 8];

/// A register. `R0` is what is returned, `R1` to `R5` are arguments and lost in a call, `R10` is the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How much is loaded or stored at once, as in an instruction's code (BPF_B and others).
#[derive(Clone, Copy, Debug)]
enum Size {
    Byte = 0x10,
    Half = 0x08,
    Word = 0x00,
    Double = 0x18,
}

/// What must hold for a jump, as in an instruction's code (BPF_JEQ and others). Numbers have no sign.
#[derive(Clone, Copy, Debug)]
enum When {
    Equal = 0x10,
    Above = 0x20,
    /// Some of these bits are set.
    Bits = 0x40,
    NotEqual = 0x50,
    AtMost = 0xb0,
}

/// What is done with a register, as in an instruction's code (BPF_ADD and others).
#[derive(Clone, Copy, Debug)]
enum Op {
    Add = 0x00,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Move = 0xb0,
}

/// A place in a program that is jumped to. A program only ever jumps forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
struct Assembler {
    code: Vec<Instruction>,
    labels: usize,
    /// Which instruction jumps to which label.
    jumps: Vec<(usize, Label)>,
}

// Classes of instructions (BPF_CLASS).
const LD: u8 = 0x00;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const ALU: u8 = 0x04;
const JMP: u8 = 0x05;
/// Jumps that look at the lower half of a register.
const JMP32: u8 = 0x06;
const ALU64: u8 = 0x07;
/// The other operand is a register (BPF_X).
const X: u8 = 0x08;
/// A load or a store at a register and an offset (BPF_MEM).
const MEM: u8 = 0x60;

impl Assembler {
    fn push(&mut self, code: u8, to: Reg, from: Reg, offset: i16, value: i32) -> &mut Self {
        let [low, high] = offset.to_ne_bytes();
        let [a, b, c, d] = value.to_ne_bytes();
        let registers = if cfg!(target_endian = "little") {
            (from as u8) << 4 | to as u8
        } else {
            (to as u8) << 4 | from as u8
        };
        self.code.push([code, registers, low, high, a, b, c, d]);
        self
    }

    /// `to = *(size *)(from + offset)`.
    fn load(&mut self, size: Size, to: Reg, from: Reg, offset: i16) -> &mut Self {
        self.push(LDX | MEM | size as u8, to, from, offset, 0)
    }

    /// `to` = where the value of a map of one element lies. That takes the room of two instructions.
    fn value_of(&mut self, to: Reg, map: u32) -> &mut Self {
        // Which kind of address the number stands for (BPF_PSEUDO_MAP_VALUE): it is in the place of a register.
        let kind = Reg::R2;
        self.push(LD | Size::Double as u8, to, kind, 0, map.cast_signed()).push(0, Reg::R0, Reg::R0, 0, 0)
    }

    /// `*(size *)(to + offset) = from`.
    fn store(&mut self, size: Size, to: Reg, offset: i16, from: Reg) -> &mut Self {
        self.push(STX | MEM | size as u8, to, from, offset, 0)
    }

    /// `*(size *)(to + offset) = value`.
    fn put(&mut self, size: Size, to: Reg, offset: i16, value: i32) -> &mut Self {
        self.push(ST | MEM | size as u8, to, Reg::R0, offset, value)
    }

    /// `to = to op value`, over 64 bits; the value's sign is extended.
    fn calculate(&mut self, op: Op, to: Reg, value: i32) -> &mut Self {
        self.push(ALU64 | op as u8, to, Reg::R0, 0, value)
    }

    /// `to = to op from`, over 64 bits.
    fn combine(&mut self, op: Op, to: Reg, from: Reg) -> &mut Self {
        self.push(ALU64 | X | op as u8, to, from, 0, 0)
    }

    /// Turns the lowest 16 bits from the network's order into the machine's, or back, and clears the others.
    fn swap(&mut self, to: Reg) -> &mut Self {
        // BPF_TO_BE: on a machine with that order it clears only.
        self.push(ALU | X | 0xd0, to, Reg::R0, 0, 16)
    }

    fn call(&mut self, helper: Helper) -> &mut Self {
        self.push(JMP | 0x80, Reg::R0, Reg::R0, 0, helper as i32)
    }

    fn exit(&mut self) -> &mut Self {
        self.push(JMP | 0x90, Reg::R0, Reg::R0, 0, 0)
    }

    fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels)
    }

    /// Goes on at the label when it holds for the lower 32 bits of a register.
    fn jump_if(&mut self, when: When, left: Reg, right: i32, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.push(JMP32 | when as u8, left, Reg::R0, 0, right)
    }

    /// The same with two registers, all of them.
    fn jump_if_reg(&mut self, when: When, left: Reg, right: Reg, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.push(JMP | X | when as u8, left, right, 0, 0)
    }

    fn jump(&mut self, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.push(JMP, Reg::R0, Reg::R0, 0, 0)
    }

    /// Here is the label.
    fn place(&mut self, label: Label) -> &mut Self {
        let here = self.code.len();
        self.jumps.retain(|(at, to)| {
            if *to != label {
                return true;
            }
            // A program of ours has some hundred instructions.
            let offset = i16::try_from(here - at - 1).unwrap_or(i16::MAX);
            self.code[*at][2..4].copy_from_slice(&offset.to_ne_bytes());
            false
        });
        self
    }
}

/// Functions of the kernel that a program calls (`enum bpf_func_id`, include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug)]
enum Helper {
    Now = 5,
    ChecksumDifference = 28,
    UpdateChecksum = 40,
    LookUpRoute = 69,
    RedirectToNeighbour = 152,
    /// The time as of the last tick of the clock.
    NowOrJustBefore = 160,
}
