// The heap that Triton's Python backend shares with a child, after the child died inside it.
#pragma once

#include <cstddef>

namespace tritonode {

// Makes the heap at `base` whole again by giving up what was free in it: its tree of free blocks, which may be half-linked,
// is emptied, and every block counts as in use, so that nothing is merged with a block of the old tree. What is freed from
// then on forms a tree of its own. The heap's lock must be held. `bytes` are mapped at `base`.
//
// It is that of Boost.Interprocess 1.79 (rbtree_best_fit without a mutex of its own, as managed_external_buffer has it) on
// 64 bits. False, with nothing changed, if what lies there does not look like one.
bool SealSharedHeap(void* base, size_t bytes);

}  // namespace tritonode
