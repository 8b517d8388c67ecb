import { z } from 'zod';
import { optional, parseUrl, Secret } from './kit.ts';

/** Whether user name and password can be percent-decoded. */
function isDecodable(url: URL): boolean {
  try {
    decodeURIComponent(url.username + url.password);
    return true;
  } catch (error) {
    if (error instanceof URIError) return false;
    throw error;
  }
}

const smtpUrl = z.string().transform((text, context) => {
  const url = parseUrl(text);
  const whole = url && /^smtps?:$/.test(url.protocol) && url.hostname !== '';
  // An unknown parameter would be a wish that nobody fulfils.
  if (whole && /^\/?$/.test(url.pathname) && !url.search && !url.hash && isDecodable(url)) return new Secret(text);
  context.addIssue('must be smtp:// or smtps:// with a host, and at most user name, password and port besides');
  return z.NEVER;
});

/** `name@example.com`, or `Name <name@example.com>` with a name without special characters. */
const mailSender = z.string().transform((text, context): MailSender => {
  const [, name = '', bracketed] = /^([\p{L}\p{N} ._'-]{1,80}?) *<([^<>]+)>$/u.exec(text) ?? [];
  const address = z
    .email()
    .max(320)
    .safeParse(bracketed ?? text);
  if (address.success) return { name: name.trim(), address: address.data };
  context.addIssue('must be an e-mail address, or a name and an address in <>');
  return z.NEVER;
});

/** From whom mail comes. */
export interface MailSender {
  /** May be empty. */
  readonly name: string;
  readonly address: string;
}

export const mail = {
  SMTP_URL: optional({
    group: 'Mail',
    description:
      'Mail server: smtp:// uses STARTTLS, and needs it unless the server is on loopback; smtps:// is TLS from the start. Unset: outside production mail is kept for /dev/mail, in production what needs mail is refused.',
    secret: true,
    example: 'smtps://user:password@smtp.example.com:465',
    schema: smtpUrl,
  }),
  MAIL_FROM: optional({
    group: 'Mail',
    description: 'From whom mail comes: an address, or a name and an address. Needed with SMTP_URL.',
    example: 'Switchyard <no-reply@example.com>',
    schema: mailSender,
  }),
} as const;
