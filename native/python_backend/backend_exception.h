// The exception that Triton's Python backend throws and catches itself, by its name and layout (python_backend r24.10,
// src/pb_exception.h): libstdc++ compares types of different libraries by their names.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace triton::backend::python {

struct PythonBackendException : std::exception {
  explicit PythonBackendException(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  std::string message_;
};

}  // namespace triton::backend::python
