// Which bytes of B an expand asks the memory for while it works on earlier ones. Included by kernels.inl.

constexpr int64_t kLine = 64;
constexpr int64_t kAhead = 4096;  // bytes in use between a prefetch and its use

/// Calls `fetch(offset)` with the cache lines, as offsets in bytes from the first of `rows` rows, that hold the `used`
/// bytes at the start of each row some kAhead bytes of use later. Rows lie `stride` bytes apart: where a slot uses fewer
/// ranks than B has room for, the rest of a row is never read, and fetching it would push out what is.
template <class Fetch>
inline void for_each_line_ahead(int64_t rows, int64_t stride, int64_t used, Fetch fetch) {
  if (used <= 0) return;
  if (used == stride || stride <= kLine) {
    const int64_t from = used == stride ? kAhead : kAhead / used * stride;
    for (int64_t at = 0; at < rows * stride; at += kLine) fetch(from + at);
    return;
  }
  const int64_t first = (kAhead + used - 1) / used;
  for (int64_t row = first; row < first + rows; ++row)
    for (int64_t at = 0; at < used; at += kLine) fetch(row * stride + at);
}
