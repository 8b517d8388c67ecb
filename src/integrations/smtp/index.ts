import { createTransport, type Transporter } from 'nodemailer';
import { MailRefused, type MailTransport, type OutgoingMail } from '#kernel/mail/transport.ts';

export interface SmtpOptions {
  /** `smtp://` or `smtps://`, with a host; user name, password and port where they are needed. */
  readonly url: string;
  readonly from: { readonly name: string; readonly address: string };
  /** Certificates in PEM that are trusted besides the system's; for tests. */
  readonly ca?: string;
}

/** What the answer of a mail server may take, milliseconds; and a whole mail. */
const timeouts = { connectionTimeout: 10_000, greetingTimeout: 10_000, dnsTimeout: 10_000, socketTimeout: 30_000 };
const sendTimeoutMs = 60_000;

/** The addresses of this machine itself: nobody listens in between, and a local server's certificate is a makeshift. */
const isLoopback = (host: string): boolean => /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/i.test(host);

/**
 * Hands mail to a server by SMTP, one connection a mail. On the way there it is encrypted and the server's certificate
 * is verified, or it is not sent at all; loopback is excepted.
 * @see https://www.rfc-editor.org/rfc/rfc5321
 * @see https://www.rfc-editor.org/rfc/rfc3207
 */
export function createSmtpTransport({ url, from, ca }: SmtpOptions): MailTransport {
  const { protocol, hostname, port, username, password } = new URL(url);
  const secure = protocol === 'smtps:';
  const local = isLoopback(hostname);
  const transporter = createTransport({
    host: hostname.replaceAll(/[[\]]/g, ''),
    port: Number(port || (secure ? 465 : 587)),
    secure,
    requireTLS: !secure && !local,
    tls: { minVersion: 'TLSv1.2', rejectUnauthorized: !local, ...(ca ? { ca } : {}) },
    ...(username ? { auth: { user: decodeURIComponent(username), pass: decodeURIComponent(password) } } : {}),
    ...timeouts,
    disableFileAccess: true,
    disableUrlAccess: true,
  });
  return {
    mode: 'delivers',
    send: (mail, signal) => send(transporter, from, mail, signal),
  };
}

async function send(
  transporter: Transporter,
  from: SmtpOptions['from'],
  mail: OutgoingMail,
  signal: AbortSignal,
): Promise<void> {
  try {
    await transporter.sendMail({
      // The library writes into what it is given.
      from: { ...from },
      // As an object it is one address, whatever is in it.
      to: { name: '', address: mail.to },
      subject: mail.subject,
      text: mail.text,
      date: mail.at,
      messageId: `<${mail.id}@${from.address.slice(from.address.lastIndexOf('@') + 1)}>`,
      // No out-of-office replies. @see https://www.rfc-editor.org/rfc/rfc3834#section-5
      headers: { 'Auto-Submitted': 'auto-generated' },
      signal: AbortSignal.any([signal, AbortSignal.timeout(sendTimeoutMs)]),
    });
  } catch (error) {
    // Made anew: the library's error has addresses in many places, and errors are logged and stored.
    throw failure(error, mail);
  }
}

interface SmtpFailure {
  readonly message?: unknown;
  readonly code?: unknown;
  readonly command?: unknown;
  readonly response?: unknown;
  readonly permanent?: unknown;
}

function failure(error: unknown, mail: OutgoingMail): Error {
  const { message, code, command, response, permanent } = (error ?? {}) as SmtpFailure;
  const at = typeof command === 'string' && command !== 'API' ? ` at ${command}` : '';
  const said = withoutAddresses(typeof response === 'string' ? response : `${String(code)}: ${String(message)}`, mail);
  // What is wrong with the sender or the sign-in is for the operator to mend: then the mail can go after all.
  const ofTheMail = command === 'RCPT TO' || command === 'DATA';
  if (permanent === true && ofTheMail) return new MailRefused(`The mail server refused the mail${at}: ${said}`);
  return new Error(`The mail was not handed over${at}: ${said}`);
}

const withoutAddresses = (text: string, { to }: OutgoingMail): string =>
  text
    .replaceAll(to, '[address]')
    .replaceAll(/[^\s<>"]+@[^\s<>"]+/g, '[address]')
    .replaceAll(/\s+/g, ' ')
    .slice(0, 300);
