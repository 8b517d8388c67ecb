import { DomainError } from '#kernel/errors.ts';

/** The worker has another current encryption key than the process that asked for the rotation. */
export class OtherCurrentKey extends DomainError {
  readonly code = 'OTHER_CURRENT_KEY';
  constructor(wanted: string, current: string) {
    super(`This worker's current encryption key is ${current}, not ${wanted}. Give every process the same keys first.`);
  }
}

/** A rotation of the encryption keys left values behind: the old keys are still needed. */
export class RotationIncomplete extends DomainError {
  readonly code = 'ROTATION_INCOMPLETE';
  /** @param left how many values, by column and key */
  constructor(left: readonly { column: string; kid: string; values: number }[]) {
    const list = left.map(({ column, kid, values }) => `${values} of ${column} by the key ${kid}`);
    super(`Still sealed by other keys, which must stay configured: ${list.join(', ')}.`);
  }
}
