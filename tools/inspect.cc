#include <iostream>

#include "tools/command_line.h"
#include "tools/inspect_command.h"

int main(int argc, char** argv) {
  waypoint::PrepareProcess();
  waypoint::CatchInterrupts();
  return waypoint::InspectMain(argc, argv,
                               {waypoint::PosixFileSystem(), std::cout, std::cerr, waypoint::StderrIsTerminal()});
}
