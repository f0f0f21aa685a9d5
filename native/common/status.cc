#include "status.h"

#include <cerrno>
#include <system_error>

namespace tritonode {

Status SystemError(const std::string& what) {
  // std::generic_category rather than strerror: the latter is not safe on several threads at once.
  return {"SYSTEM", what + ": " + std::generic_category().message(errno)};
}

}  // namespace tritonode
