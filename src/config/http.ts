import { isIPv6 } from 'node:net';
import { z } from 'zod';
import { optional, parseUrl, setting, split, webUrl, whole } from './kit.ts';

const origins = z.string().transform((text, context): readonly string[] => {
  const parts = split(text);
  for (const part of parts) {
    const url = parseUrl(part);
    if (url?.origin !== part || !/^https?:$/.test(url.protocol)) {
      context.addIssue(
        'must be a comma-separated list of exact origins, such as https://app.example.com (no path, no *)',
      );
      return z.NEVER;
    }
  }
  return [...new Set(parts)];
});

const hostName = z
  .string()
  .refine(
    (text) => isIPv6(text) || /^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$/.test(text),
    'must be a host name or an IP address',
  );

export const http = {
  PORT: setting({
    group: 'HTTP',
    description: 'TCP port to listen on; 0 lets the system choose one.',
    default: '4000',
    example: '8080',
    schema: whole(0, 65_535),
  }),
  HOST: setting({
    group: 'HTTP',
    description: 'Address or host name to listen on.',
    default: '127.0.0.1',
    example: '0.0.0.0',
    schema: hostName,
  }),
  PUBLIC_URL: optional({
    group: 'HTTP',
    description:
      'URL at which clients reach this server, for links and signed URLs. Production needs https, except on loopback.',
    default: {
      words: 'http://HOST:PORT; with PORT 0 it is known once the server listens',
      of: ({ env }) => {
        const port = env.get('PORT') ?? '4000';
        const host = env.get('HOST') ?? '127.0.0.1';
        // The unspecified address is for listening only: nobody can reach it.
        const reachable = { '0.0.0.0': '127.0.0.1', '::': '::1' }[host] ?? host;
        return /^0+$/.test(port)
          ? undefined
          : `http://${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`;
      },
    },
    example: 'https://switchyard.example.com',
    schema: webUrl,
  }),
  APP_URL: optional({
    group: 'HTTP',
    description:
      'URL of the application that people use: links in mails begin with it, /verify-email and /reset-password for instance.',
    default: { words: 'PUBLIC_URL', of: () => undefined },
    example: 'https://app.example.com',
    schema: webUrl,
  }),
  CORS_ORIGINS: optional({
    group: 'HTTP',
    description:
      'Exact origins, comma-separated, whose pages may call this server with credentials. Unset: only its own origin.',
    example: 'https://app.example.com,https://admin.example.com',
    schema: origins,
  }),
  TRUST_PROXY: setting({
    group: 'HTTP',
    description: 'How many proxies stand in front: so many entries at the end of X-Forwarded-For are believed.',
    unit: 'proxies',
    default: '0',
    example: '1',
    schema: whole(0, 20),
  }),
  SWITCHYARD_MAX_BODY_BYTES: setting({
    group: 'HTTP',
    description: 'Largest request body, file uploads aside; also the largest WebSocket message.',
    unit: 'bytes',
    default: '1048576',
    example: '2097152',
    schema: whole(1024, 1_073_741_824),
  }),
} as const;
