// Starts the ranks of a training job on this machine.

#include <unistd.h>

#include <algorithm>
#include <climits>
#include <iostream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "checkpoint/base/error.h"
#include "checkpoint/base/visible_text.h"
#include "nlohmann/json.hpp"
#include "tools/command_line.h"
#include "tools/exit_codes.h"
#include "tools/launch_ranks.h"
#include "tools/memory_at_start.h"
#include "tools/parse_flags.h"
#include "tools/report_json.h"
#include "tools/standard_output.h"

namespace waypoint {
namespace {

constexpr char kHelp[] = R"(Starts N ranks of the trainer on this machine and ends with them.

  launch N -- CONFIG.textproto [key.sub=value ...]

Each rank gets RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun would set
them.  The config says how the ranks divide the work: `mesh { tensor: 2 pipeline: 2 }` cuts each layer over two ranks
and the layers into two stages; what is left of N are data ranks, each with its part of every batch.

  launch 4 -- run.textproto mesh.tensor=2                  two data ranks of two tensor ranks
  launch 4 -- run.textproto mesh.zero=WEIGHTS              four data ranks that divide weights and optimizer
  launch 3 -- run.textproto mesh.tensor=3                  goes on from either, wherever it stopped

Rank 0's lines come out as they are, rank 2's behind "[2] ".  Ctrl-C or SIGTERM goes to every rank: they finish their
step, save together and stop; a second one kills them.  When a rank fails, the others end, and the last line names it;
an error that all ranks find is printed once.  With --json among the arguments stdout holds one document.

On several machines start the trainer with torchrun, srun or a script that sets the variables above; see README.md.)";

constexpr char kFooter[] = R"(
Exit code: 0 when all ranks end with 0; else that of the rank that failed (128 + signal where it was killed), 130 when
a signal stopped the job; 2 for a wrong request.)";

std::string BesideThisProgram(const std::string& name) {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  const std::string own(path, length < 0 ? 0 : length);
  return own.substr(0, own.rfind('/') + 1) + name;
}

int Main(int argc, char** argv) {
  LaunchRequest request;
  std::string program;
  std::vector<std::string> arguments;
  CLI::App app(kHelp, "launch");
  app.footer(kFooter);
  app.add_option("N", request.ranks, "how many ranks")->required()->check(CLI::Range(1, 4096));
  app.add_option("ARGUMENTS", arguments, "what each rank's program gets, after --");
  app.add_option("--program", program, "the program; default: train, beside this one");
  app.add_option("--port", request.port, "where rank 0 serves on 127.0.0.1; default: any free one")
      ->check(CLI::Range(1, 65535));
  if (const auto end = ParseFlags(app, argc, argv, std::cout, std::cerr); end.has_value()) {
    return *end;
  }
  request.command = {program.empty() ? BesideThisProgram("train") : ResolvePath(program)};
  request.command.insert(request.command.end(), arguments.begin(), arguments.end());
  const auto report = LaunchRanks(request);
  // Rank 0 prints the job's document, unless it could not.
  const bool json = std::find(arguments.begin(), arguments.end(), "--json") != arguments.end();
  if (!report.ok()) {
    return ReportError(report.status(), json, std::cout, std::cerr);
  }
  if (!report->failure.empty()) {
    std::cerr << "error: " << VisibleText(report->failure) << std::endl;
    if (json && !report->first_rank_printed) {
      nlohmann::ordered_json document;
      document["error"]["kind"] = std::string(ErrorKindName(ErrorKind::kRank));
      document["error"]["message"] = report->failure;
      document["error"]["exit_code"] = report->exit_code;
      std::cout << ReportJsonText(document) << std::endl;
    }
  }
  if (report->exit_code == kExitOk && report->output_error != 0) {
    return ReportError(OutputError(report->output_error), /*json=*/false, std::cout, std::cerr);
  }
  return report->exit_code;
}

}  // namespace
}  // namespace waypoint

const size_t waypoint::kBytesToStart = size_t{4} << 20;

int main(int argc, char** argv) {
  return waypoint::RunTool([&] { return waypoint::Main(argc, argv); });
}
