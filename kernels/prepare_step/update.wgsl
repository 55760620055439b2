// What the optimizer reads of a step.
struct Update {
  learningRate: f32,
  gradientFactor: f32, // clip coefficient / lossScale
  step: u32, // number of this step among those applied, from 1
  skipped: u32, // 1 if the step changes nothing
  muonLearningRate: f32,
}
