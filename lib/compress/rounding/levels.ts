/**
 * @internal Values that a group of weights may take, ascending, and the code of each. Where there are no codes a value's place
 * is its code.
 */
export interface Levels {
  readonly values: Float64Array
  readonly codes?: Uint8Array
}

/** @internal Place of the value nearest to x, half way the lower. */
export function nearestLevel(values: Float64Array, x: number): number {
  let low = 0
  let high = values.length - 1
  while (low < high) {
    const middle = (low + high) >> 1
    if (x > (values[middle]! + values[middle + 1]!) / 2) low = middle + 1
    else high = middle
  }
  return low
}
