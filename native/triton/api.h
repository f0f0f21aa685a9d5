// What tritonode uses of Triton's C API (triton-inference-server/core, include/triton/core/tritonserver.h, API 1.34),
// declared here because the library is opened at run time: there is no header to compile against on a user's machine.
//
// Each function is resolved on its own and not by the API's version number: the minor version stayed 34 from release
// 24.08 to 26.06 while functions came and went.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "../common/data_type.h"
#include "../common/status.h"

// Opaque in the API as well; named as there so that a backtrace reads the same on both sides.
struct TRITONSERVER_Error;
struct TRITONSERVER_InferenceRequest;
struct TRITONSERVER_InferenceResponse;
struct TRITONSERVER_InferenceTrace;
struct TRITONSERVER_Message;
struct TRITONSERVER_Metrics;
struct TRITONSERVER_Parameter;
struct TRITONSERVER_ResponseAllocator;
struct TRITONSERVER_Server;
struct TRITONSERVER_ServerOptions;

namespace tritonode {

// The enumerations have the API's numbering. A C enum without negative values is passed as an unsigned int.
enum class MemoryType : uint32_t { kCpu, kCpuPinned, kGpu };
enum class ParameterType : uint32_t { kString, kInt, kBool, kDouble, kBytes };
enum class ModelControl : uint32_t { kNone, kPoll, kExplicit };
enum class MetricFormat : uint32_t { kPrometheus };
enum class LogFormat : uint32_t { kDefault, kIso8601 };

// Bit flags of the two callbacks.
inline constexpr uint32_t kRequestReleaseAll = 1;
inline constexpr uint32_t kResponseFinal = 1;

using AllocateFunction = TRITONSERVER_Error* (*)(TRITONSERVER_ResponseAllocator*, const char* tensor, size_t byteSize,
                                                 MemoryType preferred, int64_t preferredId, void* userp, void** buffer,
                                                 void** bufferUserp, MemoryType* actual, int64_t* actualId);
using ReleaseBufferFunction = TRITONSERVER_Error* (*)(TRITONSERVER_ResponseAllocator*, void* buffer, void* bufferUserp,
                                                      size_t byteSize, MemoryType, int64_t memoryId);
using StartFunction = TRITONSERVER_Error* (*)(TRITONSERVER_ResponseAllocator*, void* userp);
using RequestReleaseFunction = void (*)(TRITONSERVER_InferenceRequest*, uint32_t flags, void* userp);
using ResponseCompleteFunction = void (*)(TRITONSERVER_InferenceResponse*, uint32_t flags, void* userp);

// X(name without the TRITONSERVER_ prefix, result, (parameters)). Those in the first list must exist.
#define TRITONODE_REQUIRED_FUNCTIONS(X)                                                                               \
  X(ApiVersion, TRITONSERVER_Error*, (uint32_t * major, uint32_t * minor))                                            \
  X(ErrorNew, TRITONSERVER_Error*, (uint32_t code, const char* message))                                              \
  X(ErrorDelete, void, (TRITONSERVER_Error*))                                                                         \
  X(ErrorCode, uint32_t, (TRITONSERVER_Error*))                                                                       \
  X(ErrorMessage, const char*, (TRITONSERVER_Error*))                                                                 \
  X(ParameterNew, TRITONSERVER_Parameter*, (const char* name, ParameterType, const void* value))                      \
  X(ParameterBytesNew, TRITONSERVER_Parameter*, (const char* name, const void* bytes, uint64_t size))                 \
  X(ParameterDelete, void, (TRITONSERVER_Parameter*))                                                                 \
  X(ResponseAllocatorNew, TRITONSERVER_Error*,                                                                        \
    (TRITONSERVER_ResponseAllocator**, AllocateFunction, ReleaseBufferFunction, StartFunction))                       \
  X(MessageDelete, TRITONSERVER_Error*, (TRITONSERVER_Message*))                                                      \
  X(MessageSerializeToJson, TRITONSERVER_Error*, (TRITONSERVER_Message*, const char** base, size_t* size))            \
  X(MetricsDelete, TRITONSERVER_Error*, (TRITONSERVER_Metrics*))                                                      \
  X(MetricsFormatted, TRITONSERVER_Error*, (TRITONSERVER_Metrics*, MetricFormat, const char** base, size_t* size))    \
  X(InferenceRequestNew, TRITONSERVER_Error*,                                                                         \
    (TRITONSERVER_InferenceRequest**, TRITONSERVER_Server*, const char* model, int64_t version))                      \
  X(InferenceRequestDelete, TRITONSERVER_Error*, (TRITONSERVER_InferenceRequest*))                                    \
  X(InferenceRequestSetId, TRITONSERVER_Error*, (TRITONSERVER_InferenceRequest*, const char* id))                     \
  X(InferenceRequestSetFlags, TRITONSERVER_Error*, (TRITONSERVER_InferenceRequest*, uint32_t flags))                  \
  X(InferenceRequestSetCorrelationId, TRITONSERVER_Error*, (TRITONSERVER_InferenceRequest*, uint64_t id))             \
  X(InferenceRequestSetCorrelationIdString, TRITONSERVER_Error*, (TRITONSERVER_InferenceRequest*, const char* id))    \
  X(InferenceRequestCancel, TRITONSERVER_Error*, (TRITONSERVER_InferenceRequest*))                                    \
  X(InferenceRequestSetPriorityUInt64, TRITONSERVER_Error*, (TRITONSERVER_InferenceRequest*, uint64_t priority))      \
  X(InferenceRequestAddInput, TRITONSERVER_Error*,                                                                    \
    (TRITONSERVER_InferenceRequest*, const char* name, DataType, const int64_t* shape, uint64_t dimensions))          \
  X(InferenceRequestAppendInputData, TRITONSERVER_Error*,                                                             \
    (TRITONSERVER_InferenceRequest*, const char* name, const void* base, size_t size, MemoryType, int64_t memoryId))  \
  X(InferenceRequestAddRequestedOutput, TRITONSERVER_Error*, (TRITONSERVER_InferenceRequest*, const char* name))      \
  X(InferenceRequestSetReleaseCallback, TRITONSERVER_Error*,                                                          \
    (TRITONSERVER_InferenceRequest*, RequestReleaseFunction, void* userp))                                            \
  X(InferenceRequestSetResponseCallback, TRITONSERVER_Error*,                                                         \
    (TRITONSERVER_InferenceRequest*, TRITONSERVER_ResponseAllocator*, void* allocatorUserp, ResponseCompleteFunction, \
     void* userp))                                                                                                    \
  X(InferenceRequestSetStringParameter, TRITONSERVER_Error*,                                                          \
    (TRITONSERVER_InferenceRequest*, const char* key, const char* value))                                             \
  X(InferenceRequestSetIntParameter, TRITONSERVER_Error*,                                                             \
    (TRITONSERVER_InferenceRequest*, const char* key, int64_t value))                                                 \
  X(InferenceRequestSetBoolParameter, TRITONSERVER_Error*,                                                            \
    (TRITONSERVER_InferenceRequest*, const char* key, bool value))                                                    \
  X(InferenceResponseDelete, TRITONSERVER_Error*, (TRITONSERVER_InferenceResponse*))                                  \
  X(InferenceResponseError, TRITONSERVER_Error*, (TRITONSERVER_InferenceResponse*))                                   \
  X(InferenceResponseModel, TRITONSERVER_Error*,                                                                      \
    (TRITONSERVER_InferenceResponse*, const char** model, int64_t* version))                                          \
  X(InferenceResponseParameterCount, TRITONSERVER_Error*, (TRITONSERVER_InferenceResponse*, uint32_t* count))         \
  X(InferenceResponseParameter, TRITONSERVER_Error*,                                                                  \
    (TRITONSERVER_InferenceResponse*, uint32_t index, const char** name, ParameterType*, const void** value))         \
  X(InferenceResponseOutputCount, TRITONSERVER_Error*, (TRITONSERVER_InferenceResponse*, uint32_t* count))            \
  X(InferenceResponseOutput, TRITONSERVER_Error*,                                                                     \
    (TRITONSERVER_InferenceResponse*, uint32_t index, const char** name, DataType*, const int64_t** shape,            \
     uint64_t* dimensions, const void** base, size_t* size, MemoryType*, int64_t* memoryId, void** bufferUserp))      \
  X(ServerOptionsNew, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions**))                                            \
  X(ServerOptionsDelete, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*))                                          \
  X(ServerOptionsSetServerId, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, const char*))                        \
  X(ServerOptionsSetModelRepositoryPath, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, const char*))             \
  X(ServerOptionsSetModelControlMode, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, ModelControl))               \
  X(ServerOptionsSetStrictModelConfig, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, bool))                      \
  X(ServerOptionsSetPinnedMemoryPoolByteSize, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, uint64_t))           \
  X(ServerOptionsSetCudaMemoryPoolByteSize, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, int gpu, uint64_t))    \
  X(ServerOptionsSetMinSupportedComputeCapability, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, double))        \
  X(ServerOptionsSetExitOnError, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, bool))                            \
  X(ServerOptionsSetStrictReadiness, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, bool))                        \
  X(ServerOptionsSetExitTimeout, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, unsigned int seconds))            \
  X(ServerOptionsSetBufferManagerThreadCount, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, unsigned int))       \
  X(ServerOptionsSetModelLoadThreadCount, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, unsigned int))           \
  X(ServerOptionsSetModelLoadRetryCount, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, unsigned int))            \
  X(ServerOptionsSetEnablePeerAccess, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, bool))                       \
  X(ServerOptionsSetLogFile, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, const char*))                         \
  X(ServerOptionsSetLogInfo, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, bool))                                \
  X(ServerOptionsSetLogWarn, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, bool))                                \
  X(ServerOptionsSetLogError, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, bool))                               \
  X(ServerOptionsSetLogFormat, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, LogFormat))                         \
  X(ServerOptionsSetLogVerbose, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, int level))                        \
  X(ServerOptionsSetMetrics, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, bool))                                \
  X(ServerOptionsSetGpuMetrics, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, bool))                             \
  X(ServerOptionsSetCpuMetrics, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, bool))                             \
  X(ServerOptionsSetMetricsInterval, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, uint64_t milliseconds))       \
  X(ServerOptionsSetBackendDirectory, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, const char*))                \
  X(ServerOptionsSetRepoAgentDirectory, TRITONSERVER_Error*, (TRITONSERVER_ServerOptions*, const char*))              \
  X(ServerOptionsSetBackendConfig, TRITONSERVER_Error*,                                                               \
    (TRITONSERVER_ServerOptions*, const char* backend, const char* setting, const char* value))                       \
  X(ServerNew, TRITONSERVER_Error*, (TRITONSERVER_Server**, TRITONSERVER_ServerOptions*))                             \
  X(ServerDelete, TRITONSERVER_Error*, (TRITONSERVER_Server*))                                                        \
  X(ServerRegisterModelRepository, TRITONSERVER_Error*,                                                               \
    (TRITONSERVER_Server*, const char* path, const TRITONSERVER_Parameter** mapping, uint32_t count))                 \
  X(ServerUnregisterModelRepository, TRITONSERVER_Error*, (TRITONSERVER_Server*, const char* path))                   \
  X(ServerIsLive, TRITONSERVER_Error*, (TRITONSERVER_Server*, bool*))                                                 \
  X(ServerIsReady, TRITONSERVER_Error*, (TRITONSERVER_Server*, bool*))                                                \
  X(ServerModelIsReady, TRITONSERVER_Error*, (TRITONSERVER_Server*, const char* model, int64_t version, bool*))       \
  X(ServerModelTransactionProperties, TRITONSERVER_Error*,                                                            \
    (TRITONSERVER_Server*, const char* model, int64_t version, uint32_t* flags, void** voidp))                        \
  X(ServerMetadata, TRITONSERVER_Error*, (TRITONSERVER_Server*, TRITONSERVER_Message**))                              \
  X(ServerModelMetadata, TRITONSERVER_Error*,                                                                         \
    (TRITONSERVER_Server*, const char* model, int64_t version, TRITONSERVER_Message**))                               \
  X(ServerModelStatistics, TRITONSERVER_Error*,                                                                       \
    (TRITONSERVER_Server*, const char* model, int64_t version, TRITONSERVER_Message**))                               \
  X(ServerModelConfig, TRITONSERVER_Error*,                                                                           \
    (TRITONSERVER_Server*, const char* model, int64_t version, uint32_t configVersion, TRITONSERVER_Message**))       \
  X(ServerModelIndex, TRITONSERVER_Error*, (TRITONSERVER_Server*, uint32_t flags, TRITONSERVER_Message**))            \
  X(ServerLoadModel, TRITONSERVER_Error*, (TRITONSERVER_Server*, const char* model))                                  \
  X(ServerLoadModelWithParameters, TRITONSERVER_Error*,                                                               \
    (TRITONSERVER_Server*, const char* model, const TRITONSERVER_Parameter** parameters, uint64_t count))             \
  X(ServerUnloadModel, TRITONSERVER_Error*, (TRITONSERVER_Server*, const char* model))                                \
  X(ServerUnloadModelAndDependents, TRITONSERVER_Error*, (TRITONSERVER_Server*, const char* model))                   \
  X(ServerMetrics, TRITONSERVER_Error*, (TRITONSERVER_Server*, TRITONSERVER_Metrics**))                               \
  X(ServerInferAsync, TRITONSERVER_Error*,                                                                            \
    (TRITONSERVER_Server*, TRITONSERVER_InferenceRequest*, TRITONSERVER_InferenceTrace*))

// Absent from some releases; null then, and the caller does without.
#define TRITONODE_OPTIONAL_FUNCTIONS(X)                                 \
  X(InferenceRequestSetDoubleParameter, TRITONSERVER_Error*,            \
    (TRITONSERVER_InferenceRequest*, const char* key, double value))    \
  X(ServerSetExitTimeout, TRITONSERVER_Error*, (TRITONSERVER_Server*, unsigned int seconds))

struct TritonApi {
#define TRITONODE_MEMBER(name, result, parameters) result(*name) parameters = nullptr;
  TRITONODE_REQUIRED_FUNCTIONS(TRITONODE_MEMBER)
  TRITONODE_OPTIONAL_FUNCTIONS(TRITONODE_MEMBER)
#undef TRITONODE_MEMBER

  // Fills the table from an open library. LIBRARY names the first missing symbol and the file.
  Status Resolve(void* library, const std::string& path);

  // Turns an error of Triton into a status and frees it; null is success.
  Status Take(TRITONSERVER_Error* error) const;
  // The same for an error that belongs to a response: read, not freed.
  Status Read(TRITONSERVER_Error* error) const;
};

}  // namespace tritonode
