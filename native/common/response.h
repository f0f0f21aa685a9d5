// A response as it waits for its environment's JavaScript thread: everything copied or owned, nothing of Triton's.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "data_type.h"
#include "status.h"

namespace tritonode {

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
using Bytes = std::unique_ptr<uint8_t, FreeDeleter>;

struct OutputTensor {
  std::string name;
  DataType datatype = DataType::kInvalid;
  std::vector<int64_t> shape;
  Bytes data;
  size_t byteSize = 0;
};

using ParameterValue = std::variant<std::string, int64_t, bool, double>;

struct Response {
  uint64_t call = 0;
  // No more responses come for this call.
  bool final = false;
  // Triton sends an empty FINAL to end a decoupled stream: then there is no content at all.
  bool empty = false;
  Status status;
  std::string model;
  int64_t version = 0;
  std::vector<OutputTensor> outputs;
  std::vector<std::pair<std::string, ParameterValue>> parameters;
};

}  // namespace tritonode
