// The one way a failure travels through the core: a value, never an exception, because half of the core runs on threads
// that belong to Triton and must not unwind into it.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <utility>

namespace tritonode {

class Status {
 public:
  Status() = default;
  Status(std::string code, std::string message) : code_(std::move(code)), message_(std::move(message)) {}

  bool ok() const { return code_.empty(); }
  // Triton's name of the error without its prefix (NOT_FOUND, CANCELLED, ...), or one of our own: LIBRARY (a shared
  // library or symbol is missing), SYSTEM (the operating system said no), STATE (called at the wrong time),
  // OPTION (a value that was given is not one of those that exist), HOST (this process can't have Triton in it).
  const std::string& code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  std::string code_;
  std::string message_;
};

// What `body` returns, or what it throws as a status: UNAVAILABLE if memory ran out, else INTERNAL. For the edges of the
// core, beyond which nobody would catch it.
template <typename Body>
Status Catching(const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    // Short enough to need no memory.
    return {"UNAVAILABLE", "out of memory"};
  } catch (const std::exception& error) {
    return {"INTERNAL", error.what()};
  }
}

// SYSTEM status for errno as it stands, e.g. "mkfifo /tmp/x: Permission denied".
Status SystemError(const std::string& what);

}  // namespace tritonode
