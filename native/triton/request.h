// What an inference request says, and how it is written into Triton's own request.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "../common/response.h"
#include "../common/status.h"
#include "api.h"

namespace tritonode {

struct InputTensor {
  std::string name;
  DataType datatype = DataType::kInvalid;
  std::vector<int64_t> shape;
  // Row-major elements; for BYTES each one is a 4-byte little-endian length and its bytes.
  std::string data;
};

struct RequestSpec {
  std::string model;
  // -1: the model's own version policy decides.
  int64_t version = -1;
  std::string id;
  uint64_t priority = 0;
  uint32_t flags = 0;
  uint64_t correlationId = 0;
  std::string correlationIdText;
  std::vector<InputTensor> inputs;
  std::vector<std::string> requestedOutputs;
  std::vector<std::pair<std::string, ParameterValue>> parameters;
};

// Writes all of `spec` but the model into Triton's request, which refers to the bytes of the inputs: `spec` must live until
// Triton has released the request.
Status FillRequest(const TritonApi& api, TRITONSERVER_InferenceRequest* request, const RequestSpec& spec);

}  // namespace tritonode
