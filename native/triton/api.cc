#include "api.h"

#include <dlfcn.h>

#include <array>

namespace tritonode {
namespace {

// TRITONSERVER_Error_Code by number. Triton's own ErrorCodeString has no name for 7 (CANCELLED).
constexpr std::array<const char*, 8> kErrorNames = {"UNKNOWN",     "INTERNAL",    "NOT_FOUND",      "INVALID_ARG",
                                                    "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED"};

}  // namespace

Status TritonApi::Resolve(void* library, const std::string& path) {
#define TRITONODE_LOOK_UP(name, result, parameters) \
  name = reinterpret_cast<decltype(name)>(dlsym(library, "TRITONSERVER_" #name));
#define TRITONODE_DEMAND(name, result, parameters)                                            \
  TRITONODE_LOOK_UP(name, result, parameters)                                                 \
  if (name == nullptr) {                                                                      \
    return {"LIBRARY", "the symbol TRITONSERVER_" #name " is missing from " + path};          \
  }
  TRITONODE_REQUIRED_FUNCTIONS(TRITONODE_DEMAND)
  TRITONODE_OPTIONAL_FUNCTIONS(TRITONODE_LOOK_UP)
#undef TRITONODE_DEMAND
#undef TRITONODE_LOOK_UP

  uint32_t major = 0;
  uint32_t minor = 0;
  Status status = Take(ApiVersion(&major, &minor));
  if (!status.ok()) return status;
  if (major != 1) {
    return {"LIBRARY", path + " has version " + std::to_string(major) + "." + std::to_string(minor) +
                           " of Triton's C API; this package speaks version 1"};
  }
  return {};
}

Status TritonApi::Read(TRITONSERVER_Error* error) const {
  if (error == nullptr) return {};
  const uint32_t code = ErrorCode(error);
  const char* message = ErrorMessage(error);
  return {code < kErrorNames.size() ? kErrorNames[code] : "UNKNOWN", message == nullptr ? "" : message};
}

Status TritonApi::Take(TRITONSERVER_Error* error) const {
  if (error == nullptr) return {};
  Status status = Read(error);
  ErrorDelete(error);
  return status;
}

}  // namespace tritonode
