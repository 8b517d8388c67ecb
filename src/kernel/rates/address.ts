import { isIPv4, isIPv6 } from 'node:net';
import type { Actor } from '../auth/actor.ts';

/**
 * What counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that name a network, since whoever has
 * one of its addresses has all 2^64. What is no address (a proxy wrote it) stays as it is.
 * @see https://www.rfc-editor.org/rfc/rfc6177
 */
export function networkOf(address: string): string {
  const bare = address.replace(/%.*$/, '');
  const mapped = /^::ffff:([\d.]+)$/i.exec(bare)?.[1];
  if (mapped !== undefined && isIPv4(mapped)) return mapped;
  if (!isIPv6(bare)) return address.slice(0, 45);
  // The URL parser writes it in the one shortest form.
  const [head = '', tail] = new URL(`http://[${bare}]`).hostname.slice(1, -1).split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail ? tail.split(':') : [];
  const zeros = Array.from({ length: 8 - left.length - right.length }, () => '0');
  const groups = tail === undefined ? left : [...left, ...zeros, ...right];
  return `${groups.slice(0, 4).join(':')}::/64`;
}

/** Whom limits count: an API key or a machine by itself, a person, or a stranger by network. */
export function clientOf(actor: Actor, address: string): string {
  if (actor.kind === 'API_KEY' || actor.kind === 'MACHINE') return `${actor.kind} ${actor.credentialId}`;
  return actor.userId === null ? `ADDRESS ${networkOf(address)}` : `USER ${actor.userId}`;
}

/** All keys of one maker together may as much as so many clients. */
export const keysShare = 10;

/**
 * Whom limits count beside an API key itself: its maker's keys together, in whichever workspaces. Anybody can make keys,
 * so they must not multiply what one may. Null for everybody else.
 */
export function keysOf(actor: Actor): string | null {
  return actor.kind === 'API_KEY' ? `KEYS ${actor.userId}` : null;
}
