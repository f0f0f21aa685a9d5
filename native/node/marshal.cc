#include "marshal.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace tritonode {
namespace {

[[noreturn]] void Refuse(Napi::Env env, const std::string& message) { throw Napi::TypeError::New(env, message); }

double GetNumber(const Napi::Object& from, const char* key, double otherwise) {
  const Napi::Value value = from.Get(key);
  if (value.IsUndefined()) return otherwise;
  if (!value.IsNumber()) Refuse(from.Env(), std::string(key) + " must be a number");
  return value.As<Napi::Number>().DoubleValue();
}

template <typename Integer>
Integer GetInteger(const Napi::Object& from, const char* key, Integer otherwise) {
  const double value = GetNumber(from, key, static_cast<double>(otherwise));
  // NaN fails both comparisons. 2^53 bounds what a JavaScript number can hold exactly.
  constexpr double kLimit = 9007199254740992.0;
  constexpr double kMin = static_cast<double>(std::numeric_limits<Integer>::min());
  constexpr double kMax = static_cast<double>(std::numeric_limits<Integer>::max());
  if (!(value >= std::max(kMin, -kLimit) && value <= std::min(kMax, kLimit))) {
    Refuse(from.Env(), std::string(key) + " is out of range");
  }
  return static_cast<Integer>(value);
}

bool GetBoolean(const Napi::Object& from, const char* key, bool otherwise) {
  const Napi::Value value = from.Get(key);
  if (value.IsUndefined()) return otherwise;
  if (!value.IsBoolean()) Refuse(from.Env(), std::string(key) + " must be a boolean");
  return value.As<Napi::Boolean>().Value();
}

// Undefined becomes an empty array.
Napi::Array GetArray(const Napi::Object& from, const char* key) {
  const Napi::Value value = from.Get(key);
  if (value.IsUndefined()) return Napi::Array::New(from.Env());
  if (!value.IsArray()) Refuse(from.Env(), std::string(key) + " must be an array");
  return value.As<Napi::Array>();
}

std::string ElementString(const Napi::Array& from, uint32_t index) {
  const Napi::Value value = from.Get(index);
  if (!value.IsString()) Refuse(from.Env(), "an element must be a string");
  return value.As<Napi::String>().Utf8Value();
}

// Undefined becomes an empty list.
std::vector<std::string> GetStrings(const Napi::Object& from, const char* key) {
  const Napi::Array array = GetArray(from, key);
  std::vector<std::string> strings;
  for (uint32_t i = 0; i < array.Length(); ++i) strings.push_back(ElementString(array, i));
  return strings;
}

void AppendElement(const Napi::Value& value, std::string* to) {
  const auto append = [&](const char* bytes, size_t size) {
    if (size > std::numeric_limits<uint32_t>::max()) Refuse(value.Env(), "a BYTES element is longer than 4 GiB");
    const auto length = static_cast<uint32_t>(size);
    to->append(reinterpret_cast<const char*>(&length), sizeof length);
    to->append(bytes, size);
  };
  if (value.IsString()) {
    // Lone surrogates become U+FFFD in V8's conversion.
    const std::string text = value.As<Napi::String>().Utf8Value();
    append(text.data(), text.size());
  } else if (value.IsTypedArray()) {
    const auto view = value.As<Napi::TypedArray>();
    Napi::ArrayBuffer buffer = view.ArrayBuffer();
    const char* base = view.ByteLength() == 0 ? "" : static_cast<const char*>(buffer.Data()) + view.ByteOffset();
    append(base, view.ByteLength());
  } else {
    Refuse(value.Env(), "an element of a BYTES tensor must be a string or a Uint8Array");
  }
}

std::string TensorBytes(const Napi::Value& data, DataType datatype) {
  std::string bytes;
  if (data.IsTypedArray()) {
    const auto view = data.As<Napi::TypedArray>();
    if (view.ByteLength() > 0) {
      bytes.assign(static_cast<const char*>(view.ArrayBuffer().Data()) + view.ByteOffset(), view.ByteLength());
    }
    return bytes;
  }
  if (!data.IsArray()) Refuse(data.Env(), "a tensor's data must be an array or a typed array");
  const auto array = data.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::HandleScope scope(data.Env());
    const Napi::Value value = array.Get(i);
    if (datatype == DataType::kBytes) {
      AppendElement(value, &bytes);
    } else if (datatype == DataType::kBool && value.IsBoolean()) {
      bytes.push_back(value.As<Napi::Boolean>().Value() ? 1 : 0);
    } else {
      Refuse(data.Env(), "only BYTES and BOOL tensors take plain arrays here");
    }
  }
  return bytes;
}

InputTensor ToInput(const Napi::Object& from) {
  InputTensor input;
  input.name = GetString(from, "name");
  input.datatype = static_cast<DataType>(GetInteger<uint32_t>(from, "datatype", 0));
  const Napi::Array shape = GetArray(from, "shape");
  for (uint32_t i = 0; i < shape.Length(); ++i) {
    const Napi::Value dimension = shape.Get(i);
    if (!dimension.IsNumber()) Refuse(from.Env(), "a shape must hold numbers");
    input.shape.push_back(dimension.As<Napi::Number>().Int64Value());
  }
  input.data = TensorBytes(from.Get("data"), input.datatype);
  return input;
}

ParameterValue ToParameter(const Napi::Value& value) {
  if (value.IsString()) return value.As<Napi::String>().Utf8Value();
  if (value.IsBoolean()) return value.As<Napi::Boolean>().Value();
  if (value.IsBigInt()) {
    bool lossless = false;
    const int64_t integer = value.As<Napi::BigInt>().Int64Value(&lossless);
    if (!lossless) Refuse(value.Env(), "a request parameter does not fit into 64 bits");
    return integer;
  }
  if (!value.IsNumber()) Refuse(value.Env(), "a request parameter must be a string, a boolean, a number or a bigint");
  const double number = value.As<Napi::Number>().DoubleValue();
  constexpr double kLimit = 9007199254740992.0;
  if (number >= -kLimit && number <= kLimit && static_cast<double>(static_cast<int64_t>(number)) == number) {
    return static_cast<int64_t>(number);
  }
  return number;
}

ServerOptions ToServerOptions(const Napi::Object& from) {
  ServerOptions to;
  to.serverId = GetString(from, "serverId");
  to.backendDirectory = GetString(from, "backendDirectory");
  to.repoAgentDirectory = GetOptionalString(from, "repoAgentDirectory");
  to.modelRepositories = GetStrings(from, "modelRepositories");
  const Napi::Array settings = GetArray(from, "backendConfig");
  for (uint32_t i = 0; i < settings.Length(); ++i) {
    const Napi::Value row = settings.Get(i);
    if (!row.IsArray()) Refuse(from.Env(), "backendConfig must hold arrays");
    const auto cells = row.As<Napi::Array>();
    to.backendConfig.push_back({ElementString(cells, 0), ElementString(cells, 1), ElementString(cells, 2)});
  }
  to.logInfo = GetBoolean(from, "logInfo", to.logInfo);
  to.logWarn = GetBoolean(from, "logWarn", to.logWarn);
  to.logError = GetBoolean(from, "logError", to.logError);
  to.logVerbose = GetInteger(from, "logVerbose", to.logVerbose);
  to.exitTimeoutSeconds = GetInteger(from, "exitTimeoutSeconds", to.exitTimeoutSeconds);
  to.bufferManagerThreads = GetInteger(from, "bufferManagerThreads", to.bufferManagerThreads);
  to.modelLoadThreads = GetInteger(from, "modelLoadThreads", to.modelLoadThreads);
  to.pinnedMemoryPoolBytes = GetInteger(from, "pinnedMemoryPoolBytes", to.pinnedMemoryPoolBytes);
  const Napi::Array pools = GetArray(from, "cudaMemoryPoolBytes");
  for (uint32_t gpu = 0; gpu < pools.Length(); ++gpu) {
    const Napi::Value bytes = pools.Get(gpu);
    if (!bytes.IsNumber()) Refuse(from.Env(), "cudaMemoryPoolBytes must hold numbers");
    to.cudaMemoryPoolBytes.emplace_back(static_cast<int>(gpu),
                                        static_cast<uint64_t>(bytes.As<Napi::Number>().Int64Value()));
  }
  to.minComputeCapability = GetNumber(from, "minComputeCapability", to.minComputeCapability);
  to.strictReadiness = GetBoolean(from, "strictReadiness", to.strictReadiness);
  to.metrics = GetBoolean(from, "metrics", to.metrics);
  to.gpuMetrics = GetBoolean(from, "gpuMetrics", to.gpuMetrics);
  to.cpuMetrics = GetBoolean(from, "cpuMetrics", to.cpuMetrics);
  to.metricsIntervalMs = GetInteger(from, "metricsIntervalMs", to.metricsIntervalMs);
  return to;
}

}  // namespace

std::string GetString(const Napi::Object& from, const char* key) {
  const Napi::Value value = from.Get(key);
  if (!value.IsString()) Refuse(from.Env(), std::string(key) + " must be a string");
  return value.As<Napi::String>().Utf8Value();
}

std::string GetOptionalString(const Napi::Object& from, const char* key) {
  return from.Get(key).IsUndefined() ? std::string() : GetString(from, key);
}

StartOptions ToStartOptions(const Napi::Object& from) {
  StartOptions to;
  to.library = GetString(from, "library");
  to.dependencyDirectory = GetOptionalString(from, "dependencyDirectory");
  to.privateDirectory = GetString(from, "privateDirectory");
  to.shmPrefix = GetString(from, "shmPrefix");
  to.pythonBackend = GetOptionalString(from, "pythonBackend");
  to.repairsOff = GetStrings(from, "repairsOff");
  to.description = GetString(from, "description");
  to.server = ToServerOptions(from);
  // An empty prefix would let the reaper remove everybody's shared memory.
  if (to.shmPrefix.empty() || to.privateDirectory.empty()) {
    Refuse(from.Env(), "privateDirectory and shmPrefix must not be empty");
  }
  return to;
}

RequestSpec ToRequestSpec(const Napi::Object& from) {
  RequestSpec to;
  to.model = GetString(from, "model");
  to.version = GetInteger<int64_t>(from, "version", -1);
  to.id = GetOptionalString(from, "id");
  to.priority = GetInteger<uint64_t>(from, "priority", 0);
  to.flags = GetInteger<uint32_t>(from, "flags", 0);
  const Napi::Value correlation = from.Get("correlationId");
  if (correlation.IsString()) {
    to.correlationIdText = correlation.As<Napi::String>().Utf8Value();
  } else {
    to.correlationId = GetInteger<uint64_t>(from, "correlationId", 0);
  }
  const Napi::Array inputs = GetArray(from, "inputs");
  for (uint32_t i = 0; i < inputs.Length(); ++i) {
    const Napi::Value input = inputs.Get(i);
    if (!input.IsObject()) Refuse(from.Env(), "an input must be an object");
    to.inputs.push_back(ToInput(input.As<Napi::Object>()));
  }
  const Napi::Array outputs = GetArray(from, "outputs");
  for (uint32_t i = 0; i < outputs.Length(); ++i) to.requestedOutputs.push_back(ElementString(outputs, i));
  const Napi::Array parameters = GetArray(from, "parameters");
  for (uint32_t i = 0; i + 1 < parameters.Length(); i += 2) {
    to.parameters.emplace_back(ElementString(parameters, i), ToParameter(parameters.Get(i + 1)));
  }
  return to;
}

std::vector<ModelFile> ToModelFiles(const Napi::Value& from) {
  std::vector<ModelFile> files;
  if (from.IsUndefined()) return files;
  if (!from.IsArray()) Refuse(from.Env(), "files must be an array");
  const auto array = from.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value row = array.Get(i);
    if (!row.IsArray()) Refuse(from.Env(), "files must hold arrays");
    const auto cells = row.As<Napi::Array>();
    files.push_back({ElementString(cells, 0), TensorBytes(cells.Get(1u), DataType::kUint8)});
  }
  return files;
}

}  // namespace tritonode
