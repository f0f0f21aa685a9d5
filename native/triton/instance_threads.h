// A defect of Triton's core in every release up to 26.06 (src/backend_model_instance.cc): when a model is unloaded,
// StopBackendThread() reads the last entry of its thread's list of instances, which is empty from when the thread takes
// a piece of work (a warm-up at the end of each load, a request) until it has put its instance back. An unload in these
// microseconds, which are milliseconds on a busy machine, reads freed or foreign memory and ends the process.
//
// Here a model is destroyed once the threads of its instances wait for work. Both functions take the place of an import
// of libtritonserver (python_backend/repairs.cc).
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

namespace tritonode {

// For std::thread::_M_start_thread: tells threads of instances and threads that destroy models by what they run.
void StartThread(std::thread* thread, std::unique_ptr<std::thread::_State> state, void (*depend)());

// For std::condition_variable::wait: where the thread of an instance waits for work.
void WaitForWork(std::condition_variable* condition, std::unique_lock<std::mutex>& lock);

// What the two functions replace.
struct ThreadFunctions {
  void (*start)(std::thread*, std::unique_ptr<std::thread::_State>, void (*)()) = nullptr;
  void (*wait)(std::condition_variable*, std::unique_lock<std::mutex>&) = nullptr;
};
ThreadFunctions& TritonThreadFunctions();

}  // namespace tritonode
