/** The instance cannot be asked now: SSM, its agent or the bucket does not do what it should. Trying again may help. */
export class InstanceUnavailable extends Error {
  override readonly name = 'InstanceUnavailable';
}

/** What an error of the SDK says: its name, and its text, which holds no credentials. */
export function saidBy(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.name === 'Error' ? error.message : `${error.name}: ${error.message}`;
}
