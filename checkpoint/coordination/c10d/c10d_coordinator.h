#ifndef CHECKPOINT_COORDINATION_C10D_C10D_COORDINATOR_H_
#define CHECKPOINT_COORDINATION_C10D_C10D_COORDINATOR_H_

// Ranks that are processes, on one host or many: messages through a c10d TCPStore of our own, beside whatever process
// groups the trainer has.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const C10dOptions options, C10dOptionsFromEnvironment());   // torchrun, Slurm, a script
//   WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<C10dCoordinator> coordinator, C10dCoordinator::Create(options));
//
// Every call is a key per rank in the store, which rank 0 serves, and polling with a deadline: no rank blocks in the
// store. A rank leaves by destroying its coordinator; rank 0 then serves on, for a bounded time, until the others have
// left too.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/c10d/c10d_options.h"
#include "checkpoint/coordination/coordinator.h"

namespace waypoint {

class C10dCoordinator : public Coordinator {
 public:
  // E_RANK when the store cannot be reached, E_REQUEST for a rank outside of the job.
  static absl::StatusOr<std::unique_ptr<C10dCoordinator>> Create(const C10dOptions& options);
  ~C10dCoordinator() override;

  int rank() const override;
  int world_size() const override;
  absl::Status Barrier(absl::string_view name, absl::Duration timeout) override;
  absl::StatusOr<std::string> Broadcast(absl::string_view name, const std::string& bytes, int root,
                                        absl::Duration timeout) override;
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view name, const std::string& bytes,
                                                     absl::Duration timeout) override;

  // Where the store is served.
  int port() const;

 private:
  struct Job;
  explicit C10dCoordinator(std::unique_ptr<Job> job);

  std::unique_ptr<Job> job_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_C10D_C10D_COORDINATOR_H_
