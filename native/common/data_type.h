// The types of a tensor's elements, with the numbers of TRITONSERVER_DataType.
#pragma once

#include <cstdint>

namespace tritonode {

enum class DataType : uint32_t {
  kInvalid, kBool, kUint8, kUint16, kUint32, kUint64, kInt8, kInt16, kInt32, kInt64, kFp16, kFp32, kFp64, kBytes, kBf16
};

}  // namespace tritonode
