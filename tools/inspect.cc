#include <iostream>

#include "tools/command_line.h"
#include "tools/inspect_command.h"
#include "tools/standard_output.h"

int main(int argc, char** argv) {
  waypoint::CatchInterrupts();
  return waypoint::RunTool([&] {
    return waypoint::InspectMain(argc, argv,
                                 {waypoint::PosixFileSystem(), std::cout, std::cerr, waypoint::StderrIsTerminal()});
  });
}
