#include "request.h"

#include <variant>

namespace tritonode {
namespace {

Status AddParameter(const TritonApi& api, TRITONSERVER_InferenceRequest* request, const std::string& key,
                    const ParameterValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    return api.Take(api.InferenceRequestSetStringParameter(request, key.c_str(), text->c_str()));
  }
  if (const auto* integer = std::get_if<int64_t>(&value)) {
    return api.Take(api.InferenceRequestSetIntParameter(request, key.c_str(), *integer));
  }
  if (const auto* flag = std::get_if<bool>(&value)) {
    return api.Take(api.InferenceRequestSetBoolParameter(request, key.c_str(), *flag));
  }
  if (api.InferenceRequestSetDoubleParameter == nullptr) {
    return {"UNSUPPORTED", "this Triton has no floating-point request parameters (parameter '" + key + "')"};
  }
  return api.Take(api.InferenceRequestSetDoubleParameter(request, key.c_str(), std::get<double>(value)));
}

}  // namespace

Status FillRequest(const TritonApi& api, TRITONSERVER_InferenceRequest* request, const RequestSpec& spec) {
  Status status = api.Take(api.InferenceRequestSetId(request, spec.id.c_str()));
  if (status.ok() && spec.flags != 0) status = api.Take(api.InferenceRequestSetFlags(request, spec.flags));
  if (status.ok() && spec.priority != 0) {
    status = api.Take(api.InferenceRequestSetPriorityUInt64(request, spec.priority));
  }
  if (status.ok() && spec.correlationId != 0) {
    status = api.Take(api.InferenceRequestSetCorrelationId(request, spec.correlationId));
  }
  if (status.ok() && !spec.correlationIdText.empty()) {
    status = api.Take(api.InferenceRequestSetCorrelationIdString(request, spec.correlationIdText.c_str()));
  }
  for (const InputTensor& input : spec.inputs) {
    if (!status.ok()) return status;
    status = api.Take(api.InferenceRequestAddInput(request, input.name.c_str(), input.datatype, input.shape.data(),
                                                   input.shape.size()));
    if (status.ok()) {
      status = api.Take(api.InferenceRequestAppendInputData(request, input.name.c_str(), input.data.data(),
                                                            input.data.size(), MemoryType::kCpu, 0));
    }
  }
  for (const std::string& name : spec.requestedOutputs) {
    if (status.ok()) status = api.Take(api.InferenceRequestAddRequestedOutput(request, name.c_str()));
  }
  for (const auto& [key, value] : spec.parameters) {
    if (status.ok()) status = AddParameter(api, request, key, value);
  }
  return status;
}

}  // namespace tritonode
