import { required } from '../app.ts';
import { DomainError } from '../errors.ts';
import type { Logger } from '../log.ts';

/** A mail as it leaves. */
export interface OutgoingMail {
  /** UUID; the same at every try, so that who gets a mail twice can tell. */
  readonly id: string;
  /** One address, without a name. */
  readonly to: string;
  readonly subject: string;
  /** Plain text, lines ended by LF. */
  readonly text: string;
  /** When it was asked for. */
  readonly at: Date;
}

/** The way out: SMTP, or what stands in for it. */
export interface MailTransport {
  /** What becomes of a mail: it is delivered, it is kept in the outbox to be read there, or none is taken at all. */
  readonly mode: 'delivers' | 'keeps' | 'refuses';
  /**
   * @throws {MailRefused} when it was refused for good
   * @throws an error without the mail's addresses and text in it, for everything that another try may mend
   */
  send(mail: OutgoingMail, signal: AbortSignal): Promise<void>;
}

export const Transport = required<MailTransport>('mail transport');

/** This server cannot send mail: its operator has to configure that first. */
export class MailNotConfigured extends DomainError {
  readonly code = 'MAIL_NOT_CONFIGURED';
  constructor() {
    super('This server cannot send mail: SMTP_URL is not set.');
  }
}

/** The receiving side refused a mail for good: another try would get the same answer. */
export class MailRefused extends Error {
  override readonly name = 'MailRefused';
}

/** For development: a line in the log tells that there is mail; its text stays in the outbox. */
export const loggingTransport = (log: Logger): MailTransport => ({
  mode: 'keeps',
  async send({ to, subject }) {
    log.info({ to, subject }, 'mail kept in the outbox');
  },
});

/** For production without SMTP_URL. */
export const noTransport: MailTransport = {
  mode: 'refuses',
  async send() {
    throw new MailNotConfigured();
  },
};
