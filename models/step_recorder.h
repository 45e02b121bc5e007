#pragma once
// Everything that one pass does: each instruction with its operands, what they hold, and the op and module it serves.

#include <limits>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "autograd/module.h"
#include "autograd/tape.h"
#include "models/picture.h"

namespace omni {

struct Recording {
  static constexpr std::int64_t kNone = -1;

  struct Value {
    std::string name;
    DType dtype = DType::f32;
    Shape shape;
    bool written = false;
    std::string parameter;        // its name in checkpoints, if it is one or a gradient of one
    bool gradient = false;        // of a parameter
    std::int64_t writer = kNone;  // the instruction that made what is read; kNone: the host, or a parameter
    std::size_t picture = 0;      // after the instruction has run
  };
  struct Instruction {
    std::string name;
    bool backward = false;
    std::size_t op = 0;  // an index of ops
    double seconds = 0;
    Work work;
    std::vector<Value> operands;
  };
  struct Op {
    std::string function;  // that registered the backward closure, "feed_forward"
    std::string file;      // from the root of the repository
    unsigned line = 0;     // 0: the op has no backward
    std::string module;    // what its parameters' names have in common, "model.layers.0"
    std::string section;   // the part of the model, by module or by the ops around it
  };
  // A result that the model names, "thinker.layers.0".
  struct Named {
    std::string name;
    std::int64_t writer = kNone;
    Shape shape;
    std::size_t picture = 0;
  };

  std::vector<Instruction> instructions;  // in the order in which they ran
  std::vector<Op> ops;                    // in forward order
  std::vector<Named> results;
  std::vector<Picture> pictures;
};

// "a.{q,k,v}.weight" of "a.q.weight", "a.k.weight" and "a.v.weight"; more than three different ones become "*".
std::string joined_name(const std::vector<std::string>& names);

// Watches the device of a tape from begin() to end(), and looks at every operand between instructions: slow, and not
// for training.
class StepRecorder {
 public:
  // `positions`: batch * time, so that pictures have one row per token. The store must outlive the recorder.
  StepRecorder(const ParameterStore& store, std::int64_t positions);
  ~StepRecorder() { end(); }
  StepRecorder(StepRecorder&&) = delete;

  // From here on instructions belong to the recording. The tape must record and live until end().
  void begin(Tape& tape);
  void name_result(const std::string& name, const ConstView& value);
  void end();  // also gives ops their names; the pass is over

  // Times of the same pass without a recorder, instruction by instruction: a recorder leaves cold caches behind.
  void set_seconds(const std::vector<double>& seconds);

  const Recording& recording() const { return recording_; }

 private:
  using Pictures = std::map<std::string, std::size_t>;  // of one memory, by dtype and shape
  struct Written {
    const std::byte* end;
    std::int64_t writer;
    Pictures pictures;
  };
  struct Owner {
    const std::byte* end;
    std::string name;
    bool gradient;
    Pictures pictures;
  };

  void add(const Execution& execution);
  void mark_written(const ConstView& view, std::int64_t writer);
  std::size_t picture(const ConstView& view);
  std::int64_t writer_of(const ConstView& view) const;
  Owner* owner_of(const ConstView& view);
  void name_ops();

  Tape* tape_ = nullptr;
  PictureSize size_;
  Recording recording_;
  std::map<const std::byte*, Owner> parameters_;             // by first byte, as below
  std::map<const std::byte*, Written> memory_;               // what instructions wrote
  std::unordered_map<std::size_t, std::size_t> op_indices_;  // by the tape's number
  std::vector<std::size_t> tape_ops_;                        // and back
  std::size_t first_loss_op_ = std::numeric_limits<std::size_t>::max();
};

}  // namespace omni
