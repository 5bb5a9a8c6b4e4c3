// For --config=tsan.  Debian's Abseil is not instrumented: the sanitizer sees threads share an absl::Status, but not
// that its reference count, which is lowered inside the library, puts their uses in order.

extern "C" const char* __tsan_default_suppressions() {
  return "race:absl::debian3::Status::Unref\n"
         "race:absl::debian3::inlined_vector_internal::Storage<absl::debian3::status_internal::Payload";
}
