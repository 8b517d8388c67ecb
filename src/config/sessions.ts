import { z } from 'zod';
import { passwordMemoryKib } from '../kernel/crypto.ts';
import { optional, secretText, setting, split, webUrl, whole } from './kit.ts';

const emailAddresses = z
  .string()
  .transform((text) => split(text).map((address) => address.toLowerCase()))
  .refine(
    (addresses) => addresses.every((address) => z.email().safeParse(address).success),
    'must be e-mail addresses, comma-separated',
  );

export const sessions = {
  SESSION_SECRET: optional({
    group: 'Sessions',
    description:
      'Key that signs session tokens, at least 32 bytes, the same in every process. Required in production; elsewhere one is generated into the state folder.',
    secret: true,
    example: 'output of: openssl rand -base64 48',
    schema: secretText(32),
  }),
  SESSION_TTL_S: setting({
    group: 'Sessions',
    description: 'How long a session lasts after signing in.',
    unit: 's',
    default: '43200',
    example: '3600',
    schema: whole(60, 2_592_000),
  }),
  SESSION_MAX_AGE_S: setting({
    group: 'Sessions',
    description: 'How long after signing in somebody must sign in again, however often their session was renewed.',
    unit: 's',
    default: '2592000',
    example: '604800',
    schema: whole(60, 31_536_000),
  }),
  SWITCHYARD_SIGN_UPS_PER_HOUR: setting({
    group: 'Sessions',
    description: 'Most accounts that are made from one network (an IPv4 address, or an IPv6 /64) within an hour.',
    unit: 'accounts',
    default: '20',
    example: '200',
    schema: whole(1, 1_000_000),
  }),
  SWITCHYARD_PASSWORD_MEMORY_KIB: setting({
    group: 'Sessions',
    description:
      'Memory that the hash of a password takes, which is what makes guessing dear. Production refuses less than the default. A password is hashed anew at the next sign-in.',
    unit: 'KiB',
    default: String(passwordMemoryKib),
    example: '47104',
    schema: whole(8, 1_048_576),
  }),
  SWITCHYARD_BREACHED_PASSWORDS_URL: optional({
    group: 'Sessions',
    description:
      'Base URL of a Pwned Passwords range API that new passwords are compared with; it gets the first five hexadecimal digits of a SHA-1. Unset: nobody is asked. While it does not answer, passwords pass, with a warning in the log.',
    example: 'https://api.pwnedpasswords.com',
    schema: webUrl,
  }),
  SWITCHYARD_OPERATORS: optional({
    group: 'Sessions',
    description:
      'E-mail addresses, comma-separated, of the people who operate this server: once verified, they see the instance’s log and may use its verbs.',
    example: 'ops@example.com',
    schema: emailAddresses,
  }),
} as const;
