#include "child_monitor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "../common/descriptor.h"
#include "../python_backend/children.h"
#include "../python_backend/lost_replies.h"
#include "../python_backend/repairs.h"
#include "process_handle.h"

namespace tritonode {
namespace {

struct Child {
  ProcessHandle process;
  std::string arguments;
  // Without a pidfd that epoll could watch.
  bool polled = false;
};

class MonitorThread final : public ChildMonitor {
 public:
  Status Open(const std::string& logPath, const std::string& childrenDirectory) {
    if (mkfifo(logPath.c_str(), 0600) != 0) return SystemError("mkfifo " + logPath);
    // Read and write: a FIFO that we also hold for writing never reports a hang-up when a child ends.
    log_ = Descriptor(open(logPath.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (log_.get() < 0) return SystemError("open " + logPath);
    directory_ = childrenDirectory;
    inotify_ = Descriptor(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (inotify_.get() < 0) return SystemError("inotify_init1");
    if (inotify_add_watch(inotify_.get(), directory_.c_str(), IN_CLOSE_WRITE | IN_MOVED_TO) < 0) {
      return SystemError("inotify_add_watch " + directory_);
    }
    wake_ = Descriptor(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (wake_.get() < 0) return SystemError("eventfd");
    epoll_ = Descriptor(epoll_create1(EPOLL_CLOEXEC));
    if (epoll_.get() < 0) return SystemError("epoll_create1");
    for (const int fd : {log_.get(), inotify_.get(), wake_.get()}) {
      if (!Add(fd)) return SystemError("epoll_ctl");
    }
    return {};
  }

  Status Run(std::shared_ptr<MonitorThread> self) {
    try {
      // All signals stay with the threads that the host chose for them.
      sigset_t all;
      sigset_t before;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
      std::thread thread([self] { self->Loop(); });
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      thread.detach();
    } catch (const std::system_error& error) {
      return {"SYSTEM", std::string("cannot start a thread: ") + error.what()};
    }
    return {};
  }

  void Subscribe(std::shared_ptr<EventQueue> queue) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [pid, child] : children_) queue->Push(ChildChange{pid, true, child.arguments});
    queues_.push_back(std::move(queue));
  }

  void Unsubscribe(const EventQueue* queue) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::erase_if(queues_, [&](const auto& each) { return each.get() == queue; });
  }

  bool Watch(int pid, const std::string& arguments) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return WatchLocked(pid, arguments);
  }

  void Announce(int pid, const std::string& arguments) override {
    const std::string path = directory_ + "/" + std::to_string(pid);
    const std::string written = directory_ + "/." + std::to_string(pid);
    std::ofstream(written) << arguments;
    std::error_code ignored;
    // Both in one turn: between them the thread could report the child's end, and find an announcement of it afterwards.
    const std::lock_guard<std::mutex> lock(mutex_);
    std::filesystem::rename(written, path, ignored);
    if (!WatchLocked(pid, arguments)) unlink(path.c_str());
  }

  std::vector<int> Children() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<int> pids;
    for (const auto& [pid, child] : children_) pids.push_back(pid);
    return pids;
  }

  void End(int pid) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = children_.find(pid);
    if (found != children_.end()) found->second.process.Kill();
  }

  void EndAll() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
    for (auto& [pid, child] : children_) child.process.Kill();
  }

  void Stop() override {
    stopping_ = true;
    Wake();
  }

 private:
  void Wake() {
    const uint64_t one = 1;
    // Can fail only when the counter is full, and then the thread is awake already.
    [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof one);
  }

  bool Add(int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    return epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
  }

  void Loop() {
    const auto survive = [this](const auto& step) {
      try {
        return step();
      } catch (const std::exception&) {
        // Memory ran out. Whatever was not handled is still there to be read, but for announcements.
        rescan_ = true;
        polling_ = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(kPollMilliseconds));
        return true;
      }
    };
    while (survive([this] { return Turn(); })) {
    }
    survive([this] {
      ReadLog();
      FlushLine();
      return true;
    });
  }

  // Handles what there is; false when it is time to end.
  bool Turn() {
    std::array<epoll_event, 16> events;
    const int timeout = polling_ ? kPollMilliseconds : -1;
    const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout);
    if (count < 0 && errno != EINTR) return false;
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == log_.get()) {
        ReadLog();
      } else if (fd == inotify_.get()) {
        ReadAnnouncements();
      } else if (fd == wake_.get()) {
        uint64_t times = 0;
        [[maybe_unused]] const ssize_t size = read(fd, &times, sizeof times);
      } else {
        // Last words first: what a dying child wrote explains its death.
        ReadLog();
        ChildrenEnded([fd](Child& child) { return child.process.fd() == fd; });
      }
    }
    if (polling_) Poll();
    return !stopping_;
  }

  // For children without a pidfd, and announcements that could not be read for want of a descriptor.
  void Poll() {
    if (std::exchange(rescan_, false)) Rescan();
    ReadLog();
    ChildrenEnded([](Child& child) { return child.polled && child.process.HasEnded(); });
    const std::lock_guard<std::mutex> lock(mutex_);
    polling_ = rescan_ || std::any_of(children_.begin(), children_.end(),
                                      [](const auto& each) { return each.second.polled; });
  }

  void Rescan() {
    std::error_code error;
    std::filesystem::directory_iterator at(directory_, error);
    for (const std::filesystem::directory_iterator end; !error && at != end; at.increment(error)) {
      Announced(at->path().filename().string());
    }
    if (IsShortOfDescriptors(error.value())) rescan_ = true;
  }

  static bool IsShortOfDescriptors(int error) { return error == EMFILE || error == ENFILE; }

  void ReadLog() {
    std::array<char, 65536> buffer;
    // Bounded, so that a child that never stops writing can't keep the thread from the other descriptors.
    for (int round = 0; round < 16; ++round) {
      const ssize_t size = read(log_.get(), buffer.data(), buffer.size());
      if (size <= 0) return;
      partial_.append(buffer.data(), static_cast<size_t>(size));
      size_t begin = 0;
      for (size_t end; (end = partial_.find('\n', begin)) != std::string::npos; begin = end + 1) {
        Broadcast(LogLine{partial_.substr(begin, end - begin)});
      }
      partial_.erase(0, begin);
      if (partial_.size() > kMaxLine) FlushLine();
    }
  }

  void FlushLine() {
    if (!partial_.empty()) Broadcast(LogLine{std::move(partial_)});
    partial_.clear();
  }

  template <typename T>
  void Broadcast(const T& event) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& queue : queues_) queue->Push(event);
  }

  void ReadAnnouncements() {
    alignas(inotify_event) std::array<char, 4096> buffer;
    for (;;) {
      const ssize_t size = read(inotify_.get(), buffer.data(), buffer.size());
      if (size <= 0) return;
      for (ssize_t at = 0; at < size;) {
        const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
        if (event->len > 0) Announced(event->name);
        at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
      }
    }
  }

  void Announced(const std::string& name) {
    int pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc() || end != name.data() + name.size() || pid <= 0) return;
    const std::string path = directory_ + "/" + name;
    const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.get() < 0) {
      // It was removed with the end of its child, which has been reported.
      if (!IsShortOfDescriptors(errno)) return;
      rescan_ = true;
      polling_ = true;
      return;
    }
    std::string text;
    std::array<char, 4096> buffer;
    for (ssize_t size; (size = read(file.get(), buffer.data(), buffer.size())) > 0;) {
      text.append(buffer.data(), static_cast<size_t>(size));
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!WatchLocked(pid, text)) {
      // Gone before we looked: report a whole life at once rather than nothing.
      unlink(path.c_str());
      for (const auto& queue : queues_) {
        queue->Push(ChildChange{pid, true, text});
        queue->Push(ChildChange{pid, false, text});
      }
    }
  }

  bool WatchLocked(int pid, const std::string& arguments) {
    if (children_.count(pid) != 0) return true;
    Child child{{}, arguments};
    if (!child.process.Open(pid)) return false;
    if (ending_) child.process.Kill();
    child.polled = child.process.fd() < 0 || !Add(child.process.fd());
    if (child.polled) {
      polling_ = true;
      Wake();
    }
    children_[pid] = std::move(child);
    for (const auto& queue : queues_) queue->Push(ChildChange{pid, true, arguments});
    return true;
  }

  template <typename Ended>
  void ChildrenEnded(Ended ended) {
    std::vector<int> gone;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      EraseEnded(ended, &gone);
    }
    for (const int pid : gone) DropFactoriesOf(pid);
  }

  template <typename Ended>
  void EraseEnded(Ended ended, std::vector<int>* gone) {
    for (auto at = children_.begin(); at != children_.end();) {
      auto& [pid, child] = *at;
      if (!ended(child)) {
        ++at;
        continue;
      }
      // First what needs memory: if that fails, the child is still there to be looked at again.
      gone->push_back(pid);
      const std::string path = directory_ + "/" + std::to_string(pid);
      const bool asked = !IsActive(Repair::kIdleChild) || EndHasBegun(pid);
      for (const auto& queue : queues_) queue->Push(ChildChange{pid, false, child.arguments, asked});
      if (!child.polled) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, child.process.fd(), nullptr);
      at = children_.erase(at);
      unlink(path.c_str());
    }
  }

  // A line longer than this is passed on in pieces.
  static constexpr size_t kMaxLine = size_t{1} << 20;
  static constexpr int kPollMilliseconds = 100;

  Descriptor log_;
  Descriptor inotify_;
  Descriptor wake_;
  Descriptor epoll_;
  std::string directory_;
  std::string partial_;
  // Announcements may have been missed.
  bool rescan_ = false;
  std::atomic<bool> polling_{false};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  bool ending_ = false;
  std::map<int, Child> children_;
  std::vector<std::shared_ptr<EventQueue>> queues_;
};

}  // namespace

Status ChildMonitor::Start(const std::string& logPath, const std::string& childrenDirectory,
                       std::shared_ptr<ChildMonitor>* monitor) {
  const auto made = std::make_shared<MonitorThread>();
  Status status = made->Open(logPath, childrenDirectory);
  if (status.ok()) status = made->Run(made);
  if (status.ok()) *monitor = made;
  return status;
}

}  // namespace tritonode
