import { required } from '#kernel/app.ts';

/** What this server says about accounts. */
export interface AccountSettings {
  /** URL that links in mails begin with, without a trailing slash. */
  readonly appUrl: () => string;
  /**
   * Whether a password is in a list of those that were in breaches; null: nobody is asked. Rejects when whoever is asked
   * does not answer.
   */
  readonly isBreached: ((password: string) => Promise<boolean>) | null;
  /** Accounts that may be made from one network within an hour. */
  readonly signUpsPerHour: number;
  /** A token that nobody guesses and the same words always give: the receipt of a request that is repeated. */
  readonly receiptOf: (...words: readonly string[]) => string;
  /** Memory that the hash of a password takes, KiB. */
  readonly passwordMemoryKib: number;
}

export const AccountSettings = required<AccountSettings>('account settings');
