// The asynchronous copies of a thread that have not been performed, in groups.
#pragma once

#include <cstddef>
#include <deque>

namespace cuda_shim {

template <class Copy>
class CopyQueue {
 public:
  void add(const Copy& copy) {
    copies_.push_back(copy);
    ++uncommitted_;
  }
  void commit() {
    groups_.push_back(uncommitted_);
    uncommitted_ = 0;
  }
  // Calls perform(copy) for those of all groups but the `pending` last ones, in order.
  template <class Perform>
  void wait(size_t pending, const Perform& perform) {
    for (; groups_.size() > pending; groups_.pop_front()) {
      for (size_t left = groups_.front(); left > 0; --left) {
        perform(copies_.front());
        copies_.pop_front();
      }
    }
  }
  const Copy* first() const { return copies_.empty() ? nullptr : &copies_.front(); }
  void clear() {
    copies_.clear();
    groups_.clear();
    uncommitted_ = 0;
  }

 private:
  std::deque<Copy> copies_;
  std::deque<size_t> groups_;  // the number of copies of each
  size_t uncommitted_ = 0;
};

}  // namespace cuda_shim
