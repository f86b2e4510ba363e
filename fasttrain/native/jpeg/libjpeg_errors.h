#pragma once

#include <csetjmp>
#include <cstdio>

#include <jpeglib.h>

namespace fasttrain {

// Real files have about ten; each further one is a pass over all coefficients. fasttrain/photos/jpeg.py has
// the same limit.
constexpr int kMaxScans = 100;

// The warnings that are not treated as errors. An unknown JFIF revision never is: it changes no pixel.
enum class Tolerated { kNothing, kStrayBytes, kDamage };

// Receives the progress of reading. Must not throw, because exceptions can't pass through libjpeg's frames.
class ReadingLog {
  public:
    virtual ~ReadingLog() = default;
    // A row of MCUs is about to be read.
    virtual void reads_row(const jpeg_decompress_struct& codec) = 0;
    // libjpeg warns about the data being read: codec.err has its message.
    virtual void meets_damage(const jpeg_decompress_struct& codec) = 0;
};

// Handles the errors and warnings of libjpeg's codecs, and limits the number of scans. Call `watch` before a
// codec is created, and set a decompressor's `progress` to `monitor()` afterwards. An error jumps to `escape`
// and leaves a message, so no local between setjmp and libjpeg may have a destructor.
class LibjpegErrors {
  public:
    explicit LibjpegErrors(Tolerated tolerated, ReadingLog* log = nullptr);
    LibjpegErrors(const LibjpegErrors&) = delete;
    LibjpegErrors& operator=(const LibjpegErrors&) = delete;

    template <typename Codec>
    void watch(Codec& codec) {
        codec.err = &base_;
        codec.client_data = this;
    }
    jpeg_progress_mgr* monitor() { return &progress_; }
    int code() const { return base_.msg_code; }
    const char* message() const { return message_; }

    std::jmp_buf escape;

  private:
    [[noreturn]] static void fail(j_common_ptr codec);
    static void judge_warning(j_common_ptr codec, int level);
    static void watch_progress(j_common_ptr codec);
    static LibjpegErrors& of(j_common_ptr codec);

    jpeg_error_mgr base_{};
    jpeg_progress_mgr progress_{};
    Tolerated tolerated_;
    ReadingLog* log_;
    char message_[JMSG_LENGTH_MAX] = "";
};

}  // namespace fasttrain
