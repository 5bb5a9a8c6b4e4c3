#include "engine/mesh.h"

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"

namespace waypoint::engine {

absl::string_view MeshAxisName(MeshAxis axis) {
  switch (axis) {
    case MeshAxis::kPipeline:
      return "pipeline";
    case MeshAxis::kData:
      return "data";
    case MeshAxis::kTensor:
      return "tensor";
    case MeshAxis::kWorld:
      return "world";
  }
  return "";
}

absl::StatusOr<MeshShape> MakeMeshShape(int world_size, int pipeline, int tensor) {
  // Divided in turn: a product of two numbers from a config may overflow.
  if (world_size < 1 || pipeline < 1 || tensor < 1 || world_size % pipeline != 0 ||
      world_size / pipeline % tensor != 0) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("mesh.pipeline ", pipeline, " times mesh.tensor ", tensor, " does not divide ",
                                  world_size, world_size == 1 ? " rank" : " ranks",
                                  "; start a multiple of that many ranks, or change the mesh"));
  }
  return MeshShape{pipeline, world_size / pipeline / tensor, tensor};
}

MeshCoordinates CoordinatesOf(const MeshShape& shape, int rank) {
  return {rank / (shape.data * shape.tensor), rank / shape.tensor % shape.data, rank % shape.tensor};
}

int RankOf(const MeshShape& shape, const MeshCoordinates& coordinates) {
  return (coordinates.pipeline * shape.data + coordinates.data) * shape.tensor + coordinates.tensor;
}

std::vector<int> RanksAlong(const MeshShape& shape, const MeshCoordinates& coordinates, MeshAxis axis) {
  std::vector<int> ranks;
  for (int rank = 0; rank < shape.world_size(); ++rank) {
    const MeshCoordinates other = CoordinatesOf(shape, rank);
    const bool pipeline = axis == MeshAxis::kPipeline || other.pipeline == coordinates.pipeline;
    const bool data = axis == MeshAxis::kData || other.data == coordinates.data;
    const bool tensor = axis == MeshAxis::kTensor || other.tensor == coordinates.tensor;
    if (axis == MeshAxis::kWorld || (pipeline && data && tensor)) {
      ranks.push_back(rank);
    }
  }
  return ranks;
}

}  // namespace waypoint::engine
