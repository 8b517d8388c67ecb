/**
 * The instance cannot be asked now: SSM, its agent or the bucket does not do what it should. Trying again may help. Its
 * message is for the operators' log: what AWS says names accounts, roles and buckets.
 */
export class InstanceUnavailable extends Error {
  override readonly name = 'InstanceUnavailable';
  /** What failed, for everybody. */
  readonly told: string;
  /** @param details what is for operators only */
  constructor(told: string, details?: string, options?: ErrorOptions) {
    super(details ? `${told}: ${details}` : told, options);
    this.told = told;
  }
}

/** What an error of the SDK says: its name, and its text, which holds no credentials, but names of the account. */
export function saidBy(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.name === 'Error' ? error.message : `${error.name}: ${error.message}`;
}

/** The name alone, in parentheses: a kind of failure, of which AWS documents each. */
export function kindOf(error: unknown): string {
  const named = error instanceof Error && error.name !== 'Error' && /^[A-Za-z]{1,60}$/.test(error.name);
  return named ? ` (${error.name})` : '';
}
