// The yardstick: copies or reads the files of a directory past the page cache, with nothing else in the way.
//
//   direct_copy FROM TO [threads [huge]]      copy, then fsync of every file and of TO
//   direct_copy FROM --read [threads [huge]]  read only
//   direct_copy FROM TO threads huge half     write only the first half of each block: the I/O of a cast to half the
//   size
//
// Plain system calls on purpose: what it reaches is what the disk gives, whatever the library does.  `huge` has the
// buffers in huge pages, without which a virtio disk takes requests of 1 MiB in 254 pieces.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kBlock = int64_t{8} << 20;
constexpr int64_t kAlignment = 4096;
constexpr int64_t kHugePage = int64_t{2} << 20;

[[noreturn]] void Fail(const std::string& what) {
  std::perror(what.c_str());
  std::exit(1);
}

struct File {
  int from = -1;
  int to = -1;
  int64_t bytes = 0;
};

struct Job {
  std::vector<File> files;
  std::vector<std::pair<int, int64_t>> blocks;  // file, offset
  std::atomic<size_t> next{0};
  bool huge = false;
  bool half = false;

  // What becomes of so many bytes.
  int64_t Written(int64_t bytes) const { return half ? bytes / 2 : bytes; }

  void Work() {
    char* buffer = static_cast<char*>(std::aligned_alloc(huge ? kHugePage : kAlignment, kBlock));
    if (huge) {
      madvise(buffer, kBlock, MADV_HUGEPAGE);
    }
    for (size_t i = next++; i < blocks.size(); i = next++) {
      const File& file = files[blocks[i].first];
      const int64_t offset = blocks[i].second;
      int64_t read = 0;
      const int64_t wanted = std::min(kBlock, file.bytes - offset);
      while (read < wanted) {
        const ssize_t got = pread(file.from, buffer + read, kBlock - read, offset + read);
        if (got <= 0) {
          Fail("pread");
        }
        read += got;
      }
      if (file.to < 0) {
        continue;
      }
      // The last block is written whole and cut off later: O_DIRECT knows no odd lengths.
      const int64_t kept = Written(wanted);
      const int64_t padded = (kept + kAlignment - 1) / kAlignment * kAlignment;
      std::memset(buffer + kept, 0, padded - kept);
      for (int64_t written = 0; written < padded;) {
        const ssize_t put = pwrite(file.to, buffer + written, padded - written, Written(offset) + written);
        if (put <= 0) {
          Fail("pwrite");
        }
        written += put;
      }
    }
    std::free(buffer);
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: direct_copy FROM TO|--read [threads [huge [half]]]\n");
    return 2;
  }
  const std::string from = argv[1];
  const std::string to = argv[2];
  const int threads = argc > 3 ? std::max(1, std::atoi(argv[3])) : 4;
  const bool read_only = to == "--read";
  const auto start = std::chrono::steady_clock::now();
  if (!read_only && mkdir(to.c_str(), 0777) != 0) {
    Fail("mkdir " + to);
  }
  Job job;
  job.huge = argc > 4 && std::strcmp(argv[4], "huge") == 0;
  job.half = argc > 5 && std::strcmp(argv[5], "half") == 0;
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(from)) {
    if (!entry.is_regular_file()) {
      continue;
    }
    File file;
    file.bytes = static_cast<int64_t>(entry.file_size());
    file.from = open(entry.path().c_str(), O_RDONLY | O_DIRECT);
    if (file.from < 0) {
      Fail("open " + entry.path().string());
    }
    if (!read_only) {
      const std::string target = to + "/" + entry.path().filename().string();
      file.to = open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_DIRECT, 0666);
      if (file.to < 0 || (file.bytes > 0 && posix_fallocate(file.to, 0, job.Written(file.bytes)) != 0)) {
        Fail("create " + target);
      }
    }
    for (int64_t offset = 0; offset < file.bytes; offset += kBlock) {
      job.blocks.emplace_back(static_cast<int>(job.files.size()), offset);
    }
    bytes += file.bytes;
    job.files.push_back(file);
  }
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&job] { job.Work(); });
  }
  for (std::thread& worker : workers) {
    worker.join();
  }
  for (const File& file : job.files) {
    if (file.to >= 0 && (ftruncate(file.to, job.Written(file.bytes)) != 0 || fsync(file.to) != 0)) {
      Fail("fsync");
    }
  }
  if (!read_only) {
    const int directory = open(to.c_str(), O_RDONLY | O_DIRECTORY);
    if (directory < 0 || fsync(directory) != 0) {
      Fail("fsync " + to);
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("{\"bytes\": %lld, \"seconds\": %.6f}\n", static_cast<long long>(bytes), seconds);
  return 0;
}
