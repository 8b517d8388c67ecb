import { flag, listOf, outsideProduction, setting } from './kit.ts';

const gitProtocols = ['https', 'http', 'ssh', 'file'] as const;
export type GitProtocol = (typeof gitProtocols)[number];

export const outbound = {
  SWITCHYARD_GIT_PROTOCOLS: setting({
    group: 'Outbound',
    description: `Protocols that Git may fetch by, comma-separated: ${gitProtocols.join(', ')}. file lets every tenant read repositories on this host.`,
    default: {
      words: 'https; outside production https,http,file',
      of: ({ mode }) => (mode === 'production' ? 'https' : 'https,http,file'),
    },
    example: 'https,ssh',
    schema: listOf(gitProtocols),
  }),
  SWITCHYARD_ALLOW_LOOPBACK: setting({
    group: 'Outbound',
    description:
      'Let URLs that users give reach this host’s loopback addresses. Production forbids it unless it is set.',
    default: outsideProduction,
    example: 'false',
    schema: flag,
  }),
} as const;
