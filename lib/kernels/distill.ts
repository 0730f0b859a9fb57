import * as features from './distill/features'
import * as linear from './distill/linear'
import * as logits from './distill/logits'

export { crossEntropy, crossEntropyAsync } from './distill/logits'
export type {
  CrossEntropyOptions,
  DkdLoss,
  DkdOptions,
  JsOptions,
  KlOptions,
  Labels,
  Loss,
  MultiTeacherOptions,
  Reduction,
} from './distill/logits'
export type { GivenLogits, LinearHead, LinearKlLoss, LinearKlOptions } from './distill/linear'
export type {
  AttentionOptions,
  CorrelationOptions,
  FeatureLoss,
  FeatureOptions,
  RegressedLoss,
  RelationOptions,
  SimilarityOptions,
} from './distill/features'

/**
 * Losses that make a student follow a teacher; each answers the loss and its gradient with respect to the student.
 *
 * @example
 * const { loss, grad } = distill.kl(student, teacher, { temperature: 4 })
 */
export const distill = {
  kl: logits.kl,
  klAsync: logits.klAsync,
  linearKl: linear.linearKl,
  linearKlAsync: linear.linearKlAsync,
  js: logits.js,
  jsAsync: logits.jsAsync,
  dkd: logits.dkd,
  dkdAsync: logits.dkdAsync,
  multiTeacher: logits.multiTeacher,
  multiTeacherAsync: logits.multiTeacherAsync,
  feature: features.feature,
  featureAsync: features.featureAsync,
  attention: features.attention,
  attentionAsync: features.attentionAsync,
  relationDistance: features.relationDistance,
  relationDistanceAsync: features.relationDistanceAsync,
  relationAngle: features.relationAngle,
  relationAngleAsync: features.relationAngleAsync,
  similarity: features.similarity,
  similarityAsync: features.similarityAsync,
  correlation: features.correlation,
  correlationAsync: features.correlationAsync,
} as const
