#include "shared_heap.h"

#include <cstdint>
#include <cstring>
#include <string_view>

namespace tritonode {
namespace {

constexpr uint64_t kUnit = 16;
constexpr uint64_t kLeastUnits = 3;

// Links are distances from the link itself; 1 stands for none.
struct Header {
  uint64_t freeBlocks;
  int64_t root;
  int64_t first;
  int64_t last;
  uint64_t extraBytes;
  uint64_t allocatedBytes;
  uint64_t size;
};

struct Block {
  uint64_t previousUnits;  // of a free block; else the last bytes of that block's user
  uint64_t units : 62;
  uint64_t previousInUse : 1;
  uint64_t inUse : 1;
};
static_assert(sizeof(Block) == kUnit && sizeof(Header) == 56);

class Heap {
 public:
  Heap(void* base, size_t bytes) : base_(static_cast<char*>(base)), bytes_(bytes) {}

  bool Seal() {
    Header& header = *reinterpret_cast<Header*>(base_);
    if (bytes_ < 4096 || header.extraBytes > 1024 || header.extraBytes % 8 != 0) return false;
    first_ = (sizeof(Header) + header.extraBytes + kUnit - 1) / kUnit * kUnit;
    const uint64_t* total = TotalSize();
    if (total == nullptr || *total > bytes_ || *total < first_ + 8 * kUnit || header.size < *total) return false;
    end_ = first_ + ((*total - first_) / kUnit - 1) * kUnit;
    // A growth that the child did not finish is taken back: the backend goes by the total size.
    const bool grown = header.size != *total;
    if (!grown && (At(end_).units != (end_ - first_) / kUnit || At(end_).inUse == 0)) return false;
    header.size = *total;
    At(first_).previousUnits = (end_ - first_) / kUnit;
    MarkAll();
    At(end_).units = (end_ - first_) / kUnit;
    At(end_).previousInUse = 1;
    At(end_).inUse = 1;
    header.freeBlocks = 0;
    header.root = 1;
    header.first = -static_cast<int64_t>(sizeof(int64_t));
    header.last = -2 * static_cast<int64_t>(sizeof(int64_t));
    header.allocatedBytes = end_ - first_;
    return true;
  }

 private:
  Block& At(uint64_t offset) { return *reinterpret_cast<Block*>(base_ + offset); }

  // The named object "total size", whose name follows its value.
  const uint64_t* TotalSize() const {
    using std::string_view_literals::operator""sv;
    const size_t at = std::string_view(base_, 4096).find("total size\0"sv);
    if (at == std::string_view::npos || at % sizeof(uint64_t) != 0) return nullptr;
    return reinterpret_cast<const uint64_t*>(base_ + at) - 1;
  }

  void MarkAll() {
    for (uint64_t at = first_; at < end_;) {
      Block& block = At(at);
      if (block.units < kLeastUnits || at + block.units * kUnit > end_ || !Sound(at + block.units * kUnit)) {
        block.units = (AfterHole(at) - at) / kUnit;
      }
      block.previousInUse = 1;
      block.inUse = 1;
      at += block.units * kUnit;
    }
  }

  bool Sound(uint64_t at) { return at == end_ || (At(at).units >= kLeastUnits && at + At(at).units * kUnit <= end_); }

  // The child died while it cut the free block at `at` in two, and what follows has no head yet. The next whole block
  // still says how far back that free block began; without one, the rest of the heap stays with it.
  uint64_t AfterHole(uint64_t at) {
    for (uint64_t next = at + kLeastUnits * kUnit; next < end_; next += kUnit) {
      if (At(next).previousInUse == 0 && At(next).previousUnits == (next - at) / kUnit && Sound(next)) return next;
    }
    return end_;
  }

  char* base_;
  uint64_t bytes_;
  uint64_t first_ = 0;
  uint64_t end_ = 0;
};

}  // namespace

bool SealSharedHeap(void* base, size_t bytes) { return Heap(base, bytes).Seal(); }

}  // namespace tritonode
