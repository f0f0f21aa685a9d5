// Makes a Triton Python stub import everything first and receive its arguments later.
//
// A library for LD_PRELOAD. The stub is a C++ program that embeds Python: its main() reads the arguments, opens
// Triton's shared memory and only then starts Python. This library runs before main(): it starts Python itself, makes
// it import everything (backends/vllm/tritonode/warm_child.py) and waits on a pipe for a message with the working
// directory and the arguments, of which Python gets the model's path. Then the stub's own main() runs with them in the
// same thread, as if the stub had just been started, and finds a running interpreter.
//
// In every other program, and without TRITONODE_WARM in the environment, it does nothing.
//
//   TRITONODE_WARM          <descriptor to read from> <descriptor to write to> <folder with the Python package>
//   TRITONODE_WARM_PRELOAD  the value of LD_PRELOAD afterwards
//
// The message: its length without this number (uint32_t), then strings that end with NUL: the working directory and the
// arguments, beginning with the program's name. When the host ends, the pipe is closed and this process ends too.
//
// C++ without its standard library, because not every process that loads this file has that library.
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

using Main = int (*)(int, char**, char**);

// Python's PyStatus (Include/cpython/initconfig.h, 3.8 to 3.13); all zero is success.
struct Status {
  int type;
  const char* function;
  const char* message;
  int code;
};

Main stubMain = nullptr;
// main() is running and has not asked for its interpreter yet.
bool entering = false;

// The function of that name in the libraries that were loaded after this one; null if there is none.
template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

Status Initialize(const void* config) {
  static auto* const real = Next<Status(const void*)>("Py_InitializeFromConfig");
  return real(config);
}

// Configures Python as pybind11 does for the stub: isolated, without arguments, with Python's handling of SIGPIPE.
bool StartPython() {
  auto* const prepare = Next<void(void*)>("PyConfig_InitIsolatedConfig");
  auto* const clear = Next<void(void*)>("PyConfig_Clear");
  if (prepare == nullptr || clear == nullptr) return false;
  // PyConfig has about 400 bytes. Its fields differ between versions, so none is accessed here.
  static uint64_t config[2048];
  prepare(config);
  const Status status = Initialize(config);
  clear(config);
  if (status.type != 0) {
    std::fprintf(stderr, "tritonode: Python does not start: %s\n", status.message == nullptr ? "?" : status.message);
    return false;
  }
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  return true;
}

bool Import() {
  auto* const run = Next<int(const char*, void*)>("PyRun_SimpleStringFlags");
  return run != nullptr && run("import os, sys\n"
                               "sys.path.insert(0, os.environ['TRITONODE_WARM'].split(' ', 2)[2])\n"
                               "from tritonode import warm_child\n"
                               "warm_child.prepare()\n",
                               nullptr) == 0;
}

// Tells Python the path of the model, in hexadecimal, because it may contain anything.
void Take(const char* model) {
  auto* const run = Next<int(const char*, void*)>("PyRun_SimpleStringFlags");
  constexpr char kBegin[] = "from tritonode import warm_child\nwarm_child.take(bytes.fromhex('";
  constexpr char kEnd[] = "'))\n";
  const size_t size = std::strlen(model);
  auto* const program = static_cast<char*>(std::malloc(sizeof kBegin + 2 * size + sizeof kEnd));
  if (program == nullptr) return;
  char* at = program + std::sprintf(program, "%s", kBegin);
  for (size_t i = 0; i < size; ++i) at += std::sprintf(at, "%02x", static_cast<unsigned char>(model[i]));
  std::sprintf(at, "%s", kEnd);
  // Python prints an error, and the model is loaded as in a child that was not warm.
  if (run != nullptr) run(program, nullptr);
  std::free(program);
}

bool ReadAll(int from, void* to, size_t size) {
  for (size_t at = 0; at < size;) {
    const ssize_t count = read(from, static_cast<char*>(to) + at, size - at);
    if (count > 0) at += static_cast<size_t>(count);
    else if (count == 0 || errno != EINTR) return false;
  }
  return true;
}

// Overwrites the process's arguments, which are contiguous in memory. `ps` shows them, and
// backends/vllm/tritonode/triton/host_watch.py reads them.
void ShowArguments(int argc, char** argv, const char* arguments, size_t size) {
  char* const last = argv[argc - 1];
  const size_t room = static_cast<size_t>(last + std::strlen(last) - argv[0]) + 1;
  if (size > room) return;
  std::memset(argv[0], 0, room);
  std::memcpy(argv[0], arguments, size);
}

int WaitAndBecomeStub(int from, int to, int argc, char** argv) {
  uint32_t size = 0;
  // At the end of the pipe, the host has ended or no longer needs a warm child.
  if (!ReadAll(from, &size, sizeof size) || size == 0) _exit(0);
  auto* const message = static_cast<char*>(std::malloc(size_t{size} + 1));
  if (message == nullptr || !ReadAll(from, message, size)) _exit(0);
  message[size] = 0;
  close(from);
  close(to);
  const char* const end = message + size;
  char* const first = message + std::strlen(message) + 1;
  int count = 0;
  for (const char* at = first; at < end; at += std::strlen(at) + 1) ++count;
  auto** const arguments = static_cast<char**>(std::calloc(static_cast<size_t>(count) + 1, sizeof(char*)));
  if (arguments == nullptr || count == 0) _exit(1);
  int index = 0;
  for (char* at = first; at < end; at += std::strlen(at) + 1) arguments[index++] = at;
  if (chdir(message) != 0) std::perror("tritonode: chdir");
  if (count > 1) Take(arguments[1]);
  ShowArguments(argc, argv, first, static_cast<size_t>(end - first));
  entering = true;
  return stubMain(count, arguments, environ);
}

int WarmMain(int argc, char** argv, char** envp) {
  const char* const warm = std::getenv("TRITONODE_WARM");
  int from = -1;
  int to = -1;
  if (warm == nullptr || Next<void()>("Py_InitializeFromConfig") == nullptr ||
      std::sscanf(warm, "%d %d ", &from, &to) != 2) {
    return stubMain(argc, argv, envp);
  }
  fcntl(from, F_SETFD, FD_CLOEXEC);
  fcntl(to, F_SETFD, FD_CLOEXEC);
  const char* const preload = std::getenv("TRITONODE_WARM_PRELOAD");
  if (preload != nullptr && *preload != 0) setenv("LD_PRELOAD", preload, 1);
  else unsetenv("LD_PRELOAD");
  unsetenv("TRITONODE_WARM_PRELOAD");
  if (!StartPython() || !Import()) return 1;
  return WaitAndBecomeStub(from, to, argc, argv);
}

}  // namespace

// pybind11 refuses to start an interpreter if one is running already, so its first query is answered with no.
EXPORTED int Py_IsInitialized() {
  static auto* const real = Next<int()>("Py_IsInitialized");
  return real == nullptr || entering ? 0 : real();
}

EXPORTED Status Py_InitializeFromConfig(const void* config) {
  if (!entering) return Initialize(config);
  entering = false;
  return {};
}

EXPORTED int __libc_start_main(Main main, int argc, char** argv, void (*init)(), void (*fini)(), void (*linkerFini)(),
                               void* stackEnd) {
  using Start = int(Main, int, char**, void (*)(), void (*)(), void (*)(), void*);
  stubMain = main;
  return Next<Start>("__libc_start_main")(WarmMain, argc, argv, init, fini, linkerFini, stackEnd);
}
