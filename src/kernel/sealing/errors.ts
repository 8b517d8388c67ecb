/** A sealed value names a key-encryption key that this server does not have. */
export class UnknownKey extends Error {
  override readonly name = 'UnknownKey';
  readonly code = 'SEALING_KEY_UNKNOWN';
  /** Id of the key. */
  readonly kid: string;
  constructor(kid: string) {
    super(`A sealed value names the encryption key ${kid}, which is not configured.`);
    this.kid = kid;
  }
}

/** A sealed value was damaged, or moved to another row or column, or its key is not the one that sealed it. */
export class SealBroken extends Error {
  override readonly name = 'SealBroken';
  readonly code = 'SEAL_BROKEN';
  /** @param context what it was to be opened as */
  constructor(context: string) {
    super(`The sealed value of ${context} is damaged, belongs elsewhere, or was sealed by another key of the same id.`);
  }
}
