#ifndef ENGINE_MESH_H_
#define ENGINE_MESH_H_

// Ranks of a job as a mesh of pipeline stages, data replicas and tensor shards.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const MeshShape shape, MakeMeshShape(/*world_size=*/8, /*pipeline=*/2, /*tensor=*/2));
//   const MeshCoordinates here = CoordinatesOf(shape, rank);         // data: 2 replicas
//
// rank = (pipeline * shape.data + data) * shape.tensor + tensor: ranks that speak most often, tensor shards, are
// neighbours, and so usually on one host.  Pure; thread-safe.

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace waypoint::engine {

struct MeshShape {
  int pipeline = 1;
  int data = 1;
  int tensor = 1;

  int world_size() const { return pipeline * data * tensor; }
};

struct MeshCoordinates {
  int pipeline = 0;
  int data = 0;
  int tensor = 0;
};

enum class MeshAxis { kPipeline, kData, kTensor, kWorld };

// "pipeline", "data", "tensor", "world".
absl::string_view MeshAxisName(MeshAxis axis);

// What is left of the world is data replicas.  E_REQUEST when pipeline * tensor does not divide the world.
absl::StatusOr<MeshShape> MakeMeshShape(int world_size, int pipeline, int tensor);

// 0 <= rank < world_size.
MeshCoordinates CoordinatesOf(const MeshShape& shape, int rank);
int RankOf(const MeshShape& shape, const MeshCoordinates& coordinates);

// Ranks that differ from `coordinates` along one axis only (kWorld: all), ascending; the rank itself is among them, at
// its coordinate along that axis.
std::vector<int> RanksAlong(const MeshShape& shape, const MeshCoordinates& coordinates, MeshAxis axis);

}  // namespace waypoint::engine

#endif  // ENGINE_MESH_H_
