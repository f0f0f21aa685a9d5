// The packed buffer: the layout of weights in memory.
//
// Outputs are divided into blocks of 16, one for each float32 lane of a 512-bit register; a block's weights are contiguous
// and in the order in which they are read, so a thread that has some neighbouring blocks reads one stream.
//
//   head       64 bytes, below
//   weights    by block; inside it by inputs, ascending:
//                float32, float16   [inputs][16]
//                bfloat16           [inputs / 2][16][2]: what a bfloat16 dot product instruction takes
//                int8               [inputs / 4][16][4], stored as q + 128: what an 8-bit dot product instruction takes
//                int4               by run: steps of [16][4] as for int8; byte i of vector v holds step v in its low half
//                                   and step v + steps / 2 in its high half
//   scales     by block, [groups][16], float16 or float32
//   minimums   likewise
//
// Inputs are padded to whole runs (float kinds: to 4), outputs to whole blocks, with zeros. Sections begin on 64 bytes.
#pragma once

#include <cstdint>
#include <cstring>

#include "linear.h"

namespace tritonode::linear {

inline constexpr int kLanes = 16;
inline constexpr char kMagic[8] = {'T', 'N', 'L', 'I', 'N', 'E', 'A', 'R'};

struct Head {
  char magic[8];
  int32_t version;
  int32_t kind;
  int64_t outputs;
  int64_t inputs;
  int64_t group;  // 0 for the float kinds
  int32_t zero;
  int16_t scale_bits;
  int16_t minimum_bits;
  int32_t run;  // inputs of a run: 32 or 16; 4 for the float kinds
  int32_t activation_bits;  // 8 or 16; 0 for the float kinds
  int64_t bytes;
};
static_assert(sizeof(Head) == TRITONODE_LINEAR_HEADER_BYTES);

constexpr int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

/// Sizes and places that follow from a head.
struct Layout {
  explicit Layout(const Head& head)
      : blocks((head.outputs + kLanes - 1) / kLanes),
        padded(round_up(head.inputs, head.run)),
        runs(padded / head.run),
        groups(head.group == 0 ? 0 : (head.inputs + head.group - 1) / head.group),
        runs_of_group(groups <= 1 ? runs : head.group / head.run) {
    static constexpr int kBits[] = {32, 16, 16, 8, 4};
    block_bytes = padded * kLanes * kBits[head.kind] / 8;
    block_scale_bytes = groups * kLanes * head.scale_bits / 8;
    block_minimum_bytes = groups * kLanes * head.minimum_bits / 8;
    scales_at = round_up(TRITONODE_LINEAR_HEADER_BYTES + blocks * block_bytes, 64);
    minimums_at = round_up(scales_at + blocks * block_scale_bytes, 64);
    bytes = round_up(minimums_at + blocks * block_minimum_bytes, 64);
  }
  int64_t blocks, padded, runs, groups, runs_of_group;
  int64_t block_bytes, block_scale_bytes, block_minimum_bytes;
  int64_t scales_at, minimums_at, bytes;
};

inline bool quantised(int32_t kind) { return kind == TRITONODE_LINEAR_INT8 || kind == TRITONODE_LINEAR_INT4; }

/// No size of a head that passes overflows, and its sections lie inside the buffer.
inline bool valid(const Head& head) {
  if (std::memcmp(head.magic, kMagic, sizeof(kMagic)) != 0 || head.version != TRITONODE_LINEAR_ABI) return false;
  constexpr int64_t most = int64_t{1} << 24;
  if (head.kind < 0 || head.kind > TRITONODE_LINEAR_INT4 || head.outputs < 1 || head.outputs > most ||
      head.inputs < 1 || head.inputs > most)
    return false;
  const auto bits = [](int32_t n) { return n == 16 || n == 32; };
  if (quantised(head.kind)) {
    if (head.run != 16 && head.run != 32) return false;
    if (head.group < 1 || head.group > most || (head.group < head.inputs && head.group % head.run != 0)) return false;
    if (!bits(head.scale_bits) || (head.minimum_bits != 0 && !bits(head.minimum_bits))) return false;
    if (head.zero < -128 || head.zero > 127) return false;
    if (head.activation_bits != 8 && head.activation_bits != 16) return false;
  } else if (head.run != 4 || head.group != 0 || head.scale_bits != 0 || head.minimum_bits != 0 || head.zero != 0 ||
             head.activation_bits != 0) {
    return false;
  }
  return head.bytes == Layout(head).bytes;
}

inline bool read_head(const void* packed, int64_t bytes, Head& head) {
  if (!packed || bytes < TRITONODE_LINEAR_HEADER_BYTES) return false;
  std::memcpy(&head, packed, sizeof(head));
  return head.bytes == bytes && valid(head);
}

}  // namespace tritonode::linear
